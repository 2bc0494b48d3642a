//! Changes the answers to the requests for one class.

use super::{Class, Origin, Validators};
use crate::answer::Answer;

/// A class whose answers can be scripted.
#[derive(Debug)]
pub struct Scripted<'origin> {
    pub(super) origin: &'origin Origin,
    pub(super) wnid: String,
}

impl Scripted<'_> {
    /// Appends answers, each given once to a GET; after them the correct one is given.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) -> &Self {
        self.change(|class| class.script.extend(answers))
    }

    /// Answers every `HEAD` with this answer.
    pub fn heads(&self, answer: Answer) -> &Self {
        self.change(|class| class.heads = Some(answer))
    }

    /// After the script, answers every GET and HEAD with this answer.
    pub fn forever(&self, answer: Answer) -> &Self {
        self.change(|class| class.forever = Some(answer))
    }

    /// Sets the validators.
    pub fn validators(&self, validators: Validators) -> &Self {
        self.change(|class| class.validators = validators)
    }

    fn change(&self, change: impl FnOnce(&mut Class)) -> &Self {
        if let Some(class) = self.origin.state.classes().get_mut(&self.wnid) {
            change(class);
        }
        self
    }
}
