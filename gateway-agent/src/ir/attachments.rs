//! The routes of a listener, sorted, in parts of which a changed copy shares all but those that were changed.

use std::cmp::Ordering;
use std::fmt;
use std::slice;
use std::sync::Arc;

use super::http::{Attachment, Route};

/// Routes in a part, at most: so many are copied for one change.
const MOST: usize = 64;

/// Sorted by [`Route::precedence`], no route twice.
#[derive(Clone, Default)]
pub struct Attachments {
    /// None is empty.
    parts: Vec<Arc<Vec<Attachment>>>,
    len: usize,
}

impl Attachments {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = &Attachment> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    pub fn add(&mut self, attachment: Attachment) {
        self.len += 1;
        let i = self.part_of(&attachment.route);
        let Some(part) = self.parts.get_mut(i).map(Arc::make_mut) else {
            return self.parts.push(Arc::new(vec![attachment]));
        };
        let precedence = attachment.route.precedence();
        let at = part.partition_point(|other| other.route.precedence() < precedence);
        part.insert(at, attachment);
        if part.len() > MOST {
            // Those that come in their order leave full parts behind.
            let keep = if at == MOST { MOST } else { MOST / 2 };
            let rest = part.split_off(keep);
            self.parts.insert(i + 1, Arc::new(rest));
        }
    }

    /// Takes a route away.
    pub fn remove(&mut self, route: &Route) {
        let i = self.part_of(route);
        let Some(part) = self.parts.get_mut(i).map(Arc::make_mut) else { return };
        if let Ok(at) = part.binary_search_by(|other| other.route.precedence().cmp(&route.precedence())) {
            part.remove(at);
            self.len -= 1;
        }
        if part.is_empty() {
            self.parts.remove(i);
        }
    }

    /// What went, and what came in its place.
    pub fn changes<'a>(&'a self, now: &'a Attachments) -> Changes<'a> {
        Changes {
            old: Cursor { parts: self.parts.iter(), here: &[] },
            new: Cursor { parts: now.parts.iter(), here: &[] },
        }
    }

    /// Where a route is, or would be.
    fn part_of(&self, route: &Route) -> usize {
        let precedence = route.precedence();
        let starts_before =
            |part: &Arc<Vec<Attachment>>| part.first().is_some_and(|first| first.route.precedence() <= precedence);
        self.parts.partition_point(starts_before).saturating_sub(1)
    }
}

/// An attachment that went, one that came, or both of one route.
pub struct Changes<'a> {
    old: Cursor<'a>,
    new: Cursor<'a>,
}

struct Cursor<'a> {
    parts: slice::Iter<'a, Arc<Vec<Attachment>>>,
    here: &'a [Attachment],
}

impl<'a> Cursor<'a> {
    fn peek(&mut self) -> Option<&'a Attachment> {
        if self.here.is_empty() {
            self.here = self.parts.next()?;
        }
        self.here.first()
    }

    fn next(&mut self) -> Option<&'a Attachment> {
        let next = self.peek();
        self.here = self.here.get(1..).unwrap_or_default();
        next
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = (Option<&'a Attachment>, Option<&'a Attachment>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (old, new) = (self.old.peek(), self.new.peek());
            let is_same =
                |(old, new): (&Attachment, &Attachment)| Arc::ptr_eq(&old.route, &new.route) && old.hosts == new.hosts;
            match (old, new) {
                (None, None) => return None,
                // Both are at the start of the same part.
                (Some(a), Some(b)) if std::ptr::eq(a, b) => {
                    (self.old.here, self.new.here) = (&[], &[]);
                }
                (Some(a), Some(b)) if is_same((a, b)) => {
                    self.old.next();
                    self.new.next();
                }
                (Some(a), Some(b)) => {
                    return Some(match a.route.precedence().cmp(&b.route.precedence()) {
                        Ordering::Less => (self.old.next(), None),
                        Ordering::Greater => (None, self.new.next()),
                        Ordering::Equal => (self.old.next(), self.new.next()),
                    });
                }
                (Some(_), None) => return Some((self.old.next(), None)),
                (None, Some(_)) => return Some((None, self.new.next())),
            }
        }
    }
}

/// In any order.
impl FromIterator<Attachment> for Attachments {
    fn from_iter<I: IntoIterator<Item = Attachment>>(attachments: I) -> Attachments {
        let mut all = Attachments::default();
        attachments.into_iter().for_each(|attachment| all.add(attachment));
        all
    }
}

/// Where parts begin depends on what was there before.
impl PartialEq for Attachments {
    fn eq(&self, other: &Attachments) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Attachments {}

impl fmt::Debug for Attachments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::HostName;
    use crate::ir::http::{Created, RouteKind, RouteName};

    fn route(i: usize) -> Arc<Route> {
        let name = RouteName { namespace: "default".into(), name: format!("{i:04}").into(), kind: RouteKind::Http };
        Arc::new(Route { name, created: Created::Unknown, rules: Vec::new() })
    }

    fn at(route: Arc<Route>) -> Attachment {
        Attachment { hosts: [HostName::Any].into(), route }
    }

    #[test]
    fn a_change_copies_one_part_and_is_found() {
        let first: Attachments = (0..1_000).map(|i| i * 7 % 1_000).map(route).map(at).collect();
        assert!(first.iter().map(|a| a.route.precedence()).is_sorted() && first.iter().count() == 1_000);
        let mut second = first.clone();
        second.remove(&route(500));
        second.remove(&route(700));
        second.add(at(route(700)));
        second.add(at(route(1_234)));
        let name = |attachment: Option<&Attachment>| attachment.map(|a| a.route.name.name.to_string());
        let changes: Vec<_> = first.changes(&second).map(|(gone, come)| (name(gone), name(come))).collect();
        let named = |name: &str| Some(name.to_owned());
        let expected = [(named("0500"), None), (named("0700"), named("0700")), (None, named("1234"))];
        assert_eq!(changes, expected);
        let shared = first.parts.iter().filter(|part| second.parts.iter().any(|other| Arc::ptr_eq(part, other)));
        assert_eq!(shared.count(), first.parts.len() - 3);
        assert_eq!((second.len(), second.iter().count()), (1_000, 1_000));
    }

    #[test]
    fn parts_say_nothing() {
        let up: Attachments = (0..300).map(route).map(at).collect();
        let mut routes: Vec<Attachment> = up.iter().cloned().collect();
        routes.reverse();
        let down: Attachments = routes.into_iter().collect();
        assert_eq!(up, down);
        let mut emptied = up;
        down.iter().for_each(|attachment| emptied.remove(&attachment.route));
        assert!(emptied.is_empty() && emptied == Attachments::default());
    }
}
