//! Where llama.cpp's libraries are: the folder that was asked for, else that of the environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::LlamaError;

/// Environment variable with the folder of the libraries.
pub const FOLDER_VARIABLE: &str = "T2LC_LLAMA";

/// The folder `asked` for, else the one in [`FOLDER_VARIABLE`]; an empty variable counts as unset.
///
/// # Errors
/// Neither is there.
pub fn folder(asked: Option<&Path>) -> Result<PathBuf, LlamaError> {
    chosen(asked, std::env::var_os(FOLDER_VARIABLE))
}

fn chosen(asked: Option<&Path>, variable: Option<OsString>) -> Result<PathBuf, LlamaError> {
    let variable = variable.filter(|value| !value.is_empty()).map(PathBuf::from);
    asked.map(Path::to_owned).or(variable).ok_or(LlamaError::NoFolder)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::chosen;

    #[test]
    fn what_was_asked_for_comes_first() {
        let variable = || Some(OsString::from("variable"));
        let asked = Some(Path::new("asked"));
        assert_eq!(chosen(asked, variable()).unwrap(), Path::new("asked"));
        assert_eq!(chosen(None, variable()).unwrap(), Path::new("variable"));
        for nothing in [None, Some(OsString::new())] {
            let error = chosen(None, nothing).unwrap_err().to_string();
            assert_eq!(error, "it is not known where the libraries of llama.cpp are");
        }
    }
}
