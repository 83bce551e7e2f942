//! What a verb asks an agent for, and what it makes of the answer: the same for the agent of this node, asked over its
//! socket, and for those of a whole cluster.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::output::{self, Output, columns};

/// One GET, and the shape of its answer.
pub(crate) struct Question {
    /// Path in the agent's API.
    pub(crate) path: String,
    shape: Box<dyn Fn(Value) -> anyhow::Result<Answer>>,
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
        table: impl Fn(T) -> Vec<Vec<String>> + 'static,
    ) -> Self {
        Self::shaped(path, move |data| {
            Ok(Answer {
                text: columns(&table(output::typed(data.clone())?)),
                data,
            })
        })
    }

    /// Data of which something else is made.
    pub(super) fn shaped(
        path: impl Into<String>,
        shape: impl Fn(Value) -> anyhow::Result<Answer> + 'static,
    ) -> Self {
        Self {
            path: path.into(),
            shape: Box::new(shape),
        }
    }

    /// What an agent said becomes what is printed.
    ///
    /// # Errors
    /// The agent is of another version and says it differently, or what was asked for is not in the answer.
    pub(crate) fn answer(&self, data: Value) -> anyhow::Result<Answer> {
        (self.shape)(data)
    }
}

impl Answer {
    /// Data for people, too: indented.
    pub(super) fn json(data: Value) -> anyhow::Result<Self> {
        let text = output::rendered(&Output::Json, &data)?;
        Ok(Self { data, text })
    }
}
