//! The completion of `coordinator drain` in bash: the names of the workers, as the coordinator tells
//! them. It is silent, and takes two seconds at the most, when there is no coordinator.

use std::io::{self, Write};

use shared::manual::Manual;

/// Follows what clap generates, whose function it calls first. The flags that lead to a coordinator
/// are taken from the command line; variables of the environment count as always.
const BASH: &str = r#"
_coordinator_worker_names() {
    local words flags=() i
    read -ra words <<< "${COMP_LINE:-${COMP_WORDS[*]}}"
    for ((i = 1; i < ${#words[@]}; i++)); do
        case ${words[i]} in
            --connect | --connect-file | --tls-ca | --tls-cert | --tls-key | --token-file)
                flags+=("${words[i]}" "${words[i + 1]}")
                ;;
            --connect=* | --connect-file=* | --tls-ca=* | --tls-cert=* | --tls-key=* | --token-file=* | --insecure)
                flags+=("${words[i]}")
                ;;
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

/// Adds it to the script for bash; writes nothing for other shells.
pub(super) fn of_workers(manual: &Manual, out: &mut impl Write) -> io::Result<()> {
    match manual {
        Manual::Completions { shell } if shell.to_string() == "bash" => {
            out.write_all(BASH.as_bytes())?;
            out.flush()
        }
        Manual::Completions { .. } | Manual::Man { .. } => Ok(()),
    }
}
