//! The form of a Corefile: directives with words and blocks, a directive a line.

use super::CorefileError;

/// Deepest nesting of blocks.
const DEPTH: usize = 4;

/// A word, its arguments, and its block if it has one.
#[derive(Debug)]
pub(super) struct Directive {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) block: Option<Vec<Directive>>,
    /// Number of its line, from 1
    line: usize,
}

impl Directive {
    pub(super) fn error(&self, problem: impl Into<String>) -> CorefileError {
        CorefileError::Line {
            line: self.line,
            problem: problem.into(),
        }
    }

    /// Its only argument.
    pub(super) fn argument(&self) -> Result<&str, CorefileError> {
        match self.arguments.as_slice() {
            [argument] => Ok(argument),
            _ => Err(self.error(format!("{} takes one argument", self.name))),
        }
    }

    /// Its only argument, a number in a range.
    pub(super) fn number(&self, least: u64, most: u64) -> Result<u64, CorefileError> {
        let text = self.argument()?;
        text.parse()
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| self.error(format!("{} is a number from {least} to {most}", self.name)))
    }
}

/// Reads the directives of a file.
pub(super) fn parse_text(text: &str) -> Result<Vec<Directive>, CorefileError> {
    // The innermost open block is the last.
    let mut open: Vec<Vec<Directive>> = vec![Vec::new()];
    for (index, text) in text.lines().enumerate() {
        let line = index + 1;
        let error = |problem: &str| CorefileError::Line {
            line,
            problem: problem.to_owned(),
        };
        let text = text.split('#').next().unwrap_or_default();
        let mut words: Vec<&str> = text.split_whitespace().collect();
        if words == ["}"] {
            let block = open.pop().filter(|_| !open.is_empty());
            let owner = open.last_mut().and_then(|outer| outer.last_mut());
            let (Some(block), Some(owner)) = (block, owner) else {
                return Err(error("a block ends that did not begin"));
            };
            owner.block = Some(block);
            continue;
        }
        let begins = words.last() == Some(&"{");
        if begins {
            words.pop();
        }
        if words.iter().any(|word| matches!(*word, "{" | "}")) {
            return Err(error("{ belongs at the end of a line, } on a line of its own"));
        }
        let Some((name, arguments)) = words.split_first() else {
            if begins {
                return Err(error("a block without a name"));
            }
            continue;
        };
        let directive = Directive {
            name: (*name).to_owned(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            block: None,
            line,
        };
        if let Some(directives) = open.last_mut() {
            directives.push(directive);
        }
        if begins {
            if open.len() > DEPTH {
                return Err(error("too many blocks inside blocks"));
            }
            open.push(Vec::new());
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some(directives), true) => Ok(directives),
        _ => Err(CorefileError::Missing("a block does not end")),
    }
}
