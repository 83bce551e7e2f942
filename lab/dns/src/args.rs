//! The command line, which is CoreDNS's: flags in Go's manner, with one dash or two.

use std::path::PathBuf;

/// `seta lab dns`
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Flags as CoreDNS has them: -conf FILE (the Corefile, default ./Corefile)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAG")]
    pub flags: Vec<String>,
}

/// What the flags say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) corefile: PathBuf,
}

impl Flags {
    /// Reads flags: `-name value`, `-name=value`, and the same with two dashes.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut flags = Self {
            corefile: "Corefile".into(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let bare = word
                .strip_prefix("--")
                .or_else(|| word.strip_prefix('-'))
                .ok_or_else(|| format!("unexpected argument {word:?}"))?;
            let (name, value) = match bare.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (bare, None),
            };
            let value = value.or_else(|| words.next().map(String::as_str));
            match (name, value) {
                ("conf", Some(file)) => flags.corefile = file.into(),
                ("conf", None) => return Err("-conf takes the name of a file".to_owned()),
                _ => return Err(format!("unknown flag -{name}; only -conf FILE is understood")),
            }
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_in_the_manner_of_go() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            Flags::parse(&words).map(|flags| flags.corefile.display().to_string())
        };
        for words in [
            &["-conf", "/a"][..],
            &["--conf", "/a"],
            &["-conf=/a"],
            &["--conf=/a"],
        ] {
            assert_eq!(read(words).as_deref(), Ok("/a"), "{words:?}");
        }
        assert_eq!(read(&[]).as_deref(), Ok("Corefile"));
        for words in [&["-conf"][..], &["conf", "/a"], &["-x", "1"], &["-"]] {
            assert!(read(words).is_err(), "{words:?}");
        }
    }
}
