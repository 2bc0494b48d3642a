//! Environment variables of flags, the same way in both programs.

use clap::{Arg, ArgAction};

/// Adds the environment variable of a flag: `IMAGENET_` and the flag's name in capital letters. Its
/// value may be secret, so the help shows only the variable's name.
pub fn with_variable(argument: Arg) -> Arg {
    let Some(name) = argument.get_long() else {
        return argument;
    };
    let variable = format!("IMAGENET_{}", name.replace('-', "_").to_uppercase());
    let argument = argument.env(variable).hide_env_values(true);
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        argument.value_parser(yes_or_no)
    } else {
        argument
    }
}

/// Parses the variable of a flag without a value. Any other word is an error, so that it is not
/// mistaken for yes or no.
fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Ok(true),
        "" | "n" | "no" | "f" | "false" | "off" | "0" => Ok(false),
        _ => Err("it is neither yes nor no; give true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_yes_or_no_or_an_error() {
        for yes in ["y", "Yes", "t", "TRUE", "on", "1"] {
            assert_eq!(yes_or_no(yes), Ok(true), "{yes}");
        }
        for no in ["", "n", "No", "f", "FALSE", "off", "0"] {
            assert_eq!(yes_or_no(no), Ok(false), "{no}");
        }
        for neither in ["vielleicht", "2", " ", "truefalse"] {
            yes_or_no(neither).expect_err(neither);
        }
    }
}
