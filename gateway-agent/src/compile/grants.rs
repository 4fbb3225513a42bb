//! Whether an object may refer to one of another namespace.

use super::Reason;
use crate::index::{Index, Kind, Name};

/// Or why an object of this kind in namespace `own` may not refer to that one.
pub fn permit(index: &Index, (from, own): (Kind, &str), (to, name): (Kind, &Name)) -> Result<(), (Reason, String)> {
    if *name.namespace == *own || index.permits(from, own, to, name) {
        return Ok(());
    }
    let message = format!(
        "{to} {name} is in another namespace, and no ReferenceGrant there lets a {from} of {own} refer to it; create one there"
    );
    Err((Reason::RefNotPermitted, message))
}
