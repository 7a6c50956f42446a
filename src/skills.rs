//! Skills: finds SKILL.md files below skills/ and reads their front matter.

/// A skill that can be used: it has a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skill {
    pub(crate) name: String,
    pub(crate) description: String,
    /// Of its file, below the data directory: `skills/mail/SKILL.md`.
    pub(crate) path: String,
    /// Named in the prompt; false for `disable-model-invocation: true`.
    pub(crate) listed: bool,
}
