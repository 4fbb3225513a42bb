//! Names are said again and again (namespaces, nodes, Services): each is kept once.

use std::collections::HashSet;
use std::sync::Arc;

#[derive(Default)]
pub struct Strings {
    known: HashSet<Arc<str>>,
    /// At how many it is time to look for those nobody uses any more.
    tidy_at: usize,
}

impl Strings {
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.tidy_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.tidy_at = (self.known.len() * 2).max(64);
        }
        let new: Arc<str> = text.into();
        self.known.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_kept_once_and_only_while_it_is_used() {
        let mut strings = Strings::default();
        let first = strings.intern("a");
        assert!(Arc::ptr_eq(&first, &strings.intern("a")));
        for i in 0..10_000 {
            strings.intern(&i.to_string());
        }
        assert!(strings.known.len() < 200, "{}", strings.known.len());
        assert!(Arc::ptr_eq(&first, &strings.intern("a")));
    }
}
