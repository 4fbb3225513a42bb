//! What goes wrong again and again is said once.

use std::fmt::Display;

#[derive(Default)]
pub struct Complaint(Option<String>);

impl Complaint {
    /// Whether it is another error than the last one.
    pub fn is_new(&mut self, error: &impl Display) -> bool {
        let text = error.to_string();
        let is_new = self.0.as_ref() != Some(&text);
        self.0 = Some(text);
        is_new
    }

    /// It goes well again.
    pub fn settle(&mut self) {
        self.0 = None;
    }
}
