//! `ExtensionRef` to what Sluice does not know: passing such requests on would be wrong.

use super::{Exchange, Filtering, Request, Step};
use crate::proxy::http::answer::Reason;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown;

impl Filtering for Unknown {
    async fn request(&self, _exchange: &mut Exchange, _request: &mut Request) -> Step {
        Step::Refuse(Reason::UnknownFilter)
    }
}
