//! Plain text.

use std::path::PathBuf;

use crate::Error;

/// The documents of text files, in order: what stands between separators, without white space around it; empty ones are left out. With
/// an empty separator each file is one document.
///
/// # Errors
/// If a file cannot be read or is not UTF-8 (with the line), or if there is no document in any of them.
pub fn read_documents(files: &[PathBuf], separator: &str) -> Result<Vec<String>, Error> {
    let mut documents = vec![];
    for path in files {
        let text = read(path)?;
        documents.extend(pageformer_model::documents(&text, separator).into_iter().map(str::to_owned));
    }
    if documents.is_empty() {
        let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        return Err(Error::TooLittleData(format!("no text in {}", names.join(", "))));
    }
    Ok(documents)
}

/// The text of a file.
pub(crate) fn read(path: &PathBuf) -> Result<String, Error> {
    let io = |source| Error::Io { path: path.clone(), source };
    if path.is_dir() {
        return Err(io(std::io::Error::other("a folder; name the files in it")));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        Error::Data { path: path.clone(), line, problem: "not UTF-8 text; convert the file".into() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, b"one\ntwo\n\xFF\n").unwrap();
        let error = read_documents(std::slice::from_ref(&path), "").unwrap_err().to_string();
        assert!(error.ends_with("a.txt:3: not UTF-8 text; convert the file"), "{error}");
        std::fs::write(&path, "a\n---\n\n---\nb\n").unwrap();
        assert_eq!(read_documents(std::slice::from_ref(&path), "---").unwrap(), ["a", "b"]);
        std::fs::write(&path, "\n").unwrap();
        assert!(read_documents(&[path], "---").is_err());
    }
}
