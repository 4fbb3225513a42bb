//! The method of a request.

use http::Method;

/// None wanted: any will do.
pub fn holds(wanted: Option<&Method>, method: &Method) -> bool {
    wanted.is_none_or(|wanted| wanted == method)
}
