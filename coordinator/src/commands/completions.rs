//! The completion of `coordinator drain`: the names of the workers, which the coordinator supplies.
//! Without a coordinator it prints nothing. It takes at most two seconds.
//!
//! clap completes positional arguments with file names. The scripts here extend clap's scripts.
//! Each script takes the flags that select a coordinator from the command line; environment
//! variables apply as usual. clap can also ask the program itself for completions, but that
//! interface is unstable.

/// Appended to clap's script. It calls clap's function first.
const BASH: &str = r#"
_coordinator_worker_names() {
    local words flags=() i
    read -ra words <<< "${COMP_LINE:-${COMP_WORDS[*]}}"
    for ((i = 1; i < ${#words[@]}; i++)); do
        case ${words[i]} in
            --connect=* | --tls-*=* | --token-file=* | --target=* | --insecure)
                flags+=("${words[i]}") ;;
            --connect | --tls-* | --token-file | --target)
                flags+=("${words[i]}" "${words[i + 1]}") ;;
        esac
    done
    timeout 2 "${words[0]}" status --json "${flags[@]}" < /dev/null 2> /dev/null |
        grep -o '"name":"[A-Za-z0-9._-]*"' | cut -d '"' -f 4
}

_coordinator_with_workers() {
    _coordinator "$@"
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    if [[ $word == -* || ($before == --* && $before != --insecure) ]]; then
        return
    fi
    if [[ " ${COMP_WORDS[*]:1:COMP_CWORD-1} " == *" drain "* ]]; then
        COMPREPLY=($(compgen -W "$(_coordinator_worker_names)" -- "$word"))
    fi
}

complete -F _coordinator_with_workers -o bashdefault -o default coordinator
"#;

/// Appended to clap's script.
const FISH: &str = r#"
function __coordinator_worker_names
    set -l words (commandline -opc)
    set -l flags
    for i in (seq 2 (count $words))
        switch $words[$i]
            case '--connect=*' '--tls-*=*' '--token-file=*' '--target=*' --insecure
                set -a flags $words[$i]
            case --connect '--tls-*' --token-file --target
                set -a flags $words[$i] $words[(math $i + 1)]
        end
    end
    timeout 2 $words[1] status --json $flags </dev/null 2>/dev/null |
        grep -o '"name":"[A-Za-z0-9._-]*"' | cut -d '"' -f 4
end

complete -c coordinator -n "__fish_coordinator_using_subcommand drain" -f -a "(__coordinator_worker_names)"
"#;

/// Inserted before the statement of clap's script that runs when the script is loaded.
const ZSH: &str = r#"
_coordinator_worker_names() {
    local -a line=(${(Q)${(z)LBUFFER}}) flags names
    local i program=${${(M)line:#*coordinator}[1]:-coordinator}
    for ((i = 2; i <= $#line; i++)); do
        case $line[i] in
            (--connect=*|--tls-*=*|--token-file=*|--target=*|--insecure)
                flags+=("$line[i]") ;;
            (--connect|--tls-*|--token-file|--target)
                flags+=("$line[i]" "$line[i+1]") ;;
        esac
    done
    names=(${(f)"$(timeout 2 $program status --json $flags < /dev/null 2> /dev/null |
        grep -o '"name":"[A-Za-z0-9._-]*"' | cut -d '"' -f 4)"})
    compadd -a names
}
"#;
/// The start of that statement in clap's script.
const ZSH_LOADED: &str = "\nif [ \"$funcstack[1]\" = ";
/// The start of the description of the argument of `drain` in clap's script, and the action that
/// completes it.
const ZSH_WORKER: &str = "':name -- Which worker;";
const ZSH_FILES: &str = ":_default'";

/// Adds the completion of worker names to the script that clap has generated for a shell.
pub(super) fn with_workers(shell: &str, script: &str) -> String {
    match shell {
        "bash" => format!("{script}{BASH}"),
        "fish" => format!("{script}{FISH}"),
        "zsh" => for_zsh(script).unwrap_or_else(|| script.to_owned()),
        _ => script.to_owned(),
    }
}

/// `None` if clap's script does not have the expected form. The script then completes everything
/// except worker names.
fn for_zsh(script: &str) -> Option<String> {
    let (before, argument) = script.split_once(ZSH_WORKER)?;
    let (description, after) = argument.split_once(ZSH_FILES)?;
    let (after, loaded) = after.split_once(ZSH_LOADED)?;
    Some(format!(
        "{before}{ZSH_WORKER}{description}:_coordinator_worker_names'{after}{ZSH}{ZSH_LOADED}{loaded}"
    ))
}
