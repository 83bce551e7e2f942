//! What a verb asks an agent for, and what it makes of the answer: the same for the agent of this node, asked over its
//! socket, and for those of a whole cluster.
//!
//! Answers are read from a [`Spool`] and written where they belong, entry by entry where that is possible: tables of
//! connections are long.

use std::cell::RefCell;
use std::fmt;
use std::io::{BufRead, Write};
use std::marker::PhantomData;
use std::sync::Arc;

use anyhow::Context as _;
use serde::de::{DeserializeOwned, Deserializer as _, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::output::{self, Output, columns};
use crate::spool::Spool;

type Print = dyn Fn(&mut dyn BufRead, &mut dyn Write) -> anyhow::Result<()> + Send;
type Shape = dyn Fn(Value) -> anyhow::Result<Answer> + Send + Sync;

/// One GET, and the shape of its answer.
pub(crate) struct Question {
    /// Path in the agent's API.
    pub(crate) path: String,
    print: Box<Print>,
    shape: Option<Arc<Shape>>,
}

/// The same answer for programs and for people.
pub(crate) struct Answer {
    /// What `-o json` prints.
    pub(crate) data: Value,
    /// What is printed without `-o`.
    pub(crate) text: String,
}

impl Question {
    /// Data that is printed as it came, or as a table that `table` makes of it.
    pub(super) fn new<T: DeserializeOwned>(
        path: impl Into<String>,
        table: impl Fn(T) -> Vec<Vec<String>> + Send + 'static,
    ) -> Self {
        Self {
            path: path.into(),
            print: Box::new(move |from, to| {
                let data = serde_json::from_reader(from).context(OTHER_VERSION)?;
                Ok(to.write_all(columns(&table(data)).as_bytes())?)
            }),
            shape: None,
        }
    }

    /// A list that is printed as it came, or as a line for each of its entries, in their order.
    pub(crate) fn lines<T: DeserializeOwned>(
        path: impl Into<String>,
        line: impl Fn(&T) -> String + Send + 'static,
    ) -> Self {
        Self {
            path: path.into(),
            print: Box::new(move |from, to| {
                let mut written = Ok(());
                let entries = Entries(
                    |entry: T| {
                        written = writeln!(to, "{}", line(&entry));
                        written.is_ok()
                    },
                    PhantomData,
                );
                let read = serde_json::Deserializer::from_reader(from).deserialize_seq(entries);
                written?;
                read.context(OTHER_VERSION)
            }),
            shape: None,
        }
    }

    /// Data of which something else is made.
    pub(crate) fn shaped(
        path: impl Into<String>,
        shape: impl Fn(Value) -> anyhow::Result<Answer> + Send + Sync + 'static,
    ) -> Self {
        let shape: Arc<Shape> = Arc::new(shape);
        Self {
            path: path.into(),
            shape: Some(Arc::clone(&shape)),
            print: Box::new(move |from, to| {
                let answer = shape(serde_json::from_reader(from).context(OTHER_VERSION)?)?;
                Ok(to.write_all(answer.text.as_bytes())?)
            }),
        }
    }

    /// Writes what people read of an answer.
    ///
    /// # Errors
    /// The agent is of another version and says it differently, what was asked for is not in the answer, or `to` cannot
    /// be written to.
    pub(crate) fn print(&self, mut answer: Spool, to: &mut dyn Write) -> anyhow::Result<()> {
        (self.print)(&mut answer.read()?, to)
    }

    /// What programs read of an answer.
    ///
    /// # Errors
    /// As [`Self::print`].
    pub(crate) fn data(&self, mut answer: Spool) -> anyhow::Result<Data> {
        let Some(shape) = &self.shape else {
            return Ok(Data::AsItCame(RefCell::new(answer)));
        };
        let value = serde_json::from_reader(answer.read()?).context(OTHER_VERSION)?;
        Ok(Data::Shaped(shape(value)?.data))
    }
}

const OTHER_VERSION: &str = "the agent is of another version than this program";

/// An answer for programs.
pub(crate) enum Data {
    /// Copied when it is written, without being read into memory.
    AsItCame(RefCell<Spool>),
    /// Something that was made of it.
    Shaped(Value),
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AsItCame(spool) => {
                let mut spool = spool.borrow_mut();
                let read = spool.read().map_err(S::Error::custom)?;
                let mut from = serde_json::Deserializer::from_reader(read);
                serde_transcode::transcode(&mut from, serializer)
            }
            Self::Shaped(value) => value.serialize(serializer),
        }
    }
}

/// Hands on the entries of a list one by one, until one is not taken.
struct Entries<F, T>(F, PhantomData<T>);

impl<'de, T: DeserializeOwned, F: FnMut(T) -> bool> Visitor<'de> for Entries<F, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element()? {
            if !(self.0)(entry) {
                break;
            }
        }
        Ok(())
    }
}

impl Answer {
    /// Data for people, too: indented.
    pub(super) fn json(data: Value) -> anyhow::Result<Self> {
        let text = output::rendered(&Output::Json, &data)?;
        Ok(Self { data, text })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(question: &Question, answer: &str) -> anyhow::Result<String> {
        let mut text = Vec::new();
        question.print(answer.into(), &mut text)?;
        Ok(String::from_utf8(text)?)
    }

    fn data(question: &Question, answer: &str) -> anyhow::Result<Value> {
        Ok(serde_json::to_value(question.data(answer.into())?)?)
    }

    #[test]
    fn lines_tables_and_shapes() {
        let lines = Question::lines("/", |entry: &u8| format!("<{entry}>"));
        let table = Question::new("/", |list: Vec<u8>| vec![vec![list.len().to_string()]]);
        let shaped = Question::shaped("/", |data| {
            Ok(Answer {
                text: data.to_string(),
                data: data[0].clone(),
            })
        });
        for (question, text, value) in [
            (&lines, "<1>\n<2>\n", json!([1, 2])),
            (&table, "2\n", json!([1, 2])),
            (&shaped, "[1,2]", json!(1)),
        ] {
            assert_eq!(printed(question, " [1, 2]\n").unwrap(), text);
            assert_eq!(data(question, "[1, 2]").unwrap(), value);
            for broken in ["", "[1,", "[1, 2"] {
                assert!(printed(question, broken).is_err(), "{text} {broken}");
                assert!(data(question, broken).is_err(), "{text} {broken}");
            }
        }
        let error = printed(&lines, "[300]").unwrap_err();
        assert_eq!(error.to_string(), OTHER_VERSION);
        assert_eq!(printed(&lines, "[]").unwrap(), "");
    }

    #[test]
    fn a_reader_that_has_seen_enough_ends_it() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Question::lines("/", |entry: &u8| entry.to_string());
        let error = lines.print("[1, 2]".into(), &mut Closed).unwrap_err();
        assert!(crate::progress::is_closed(&error), "{error}");
    }
}
