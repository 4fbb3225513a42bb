//! What the outside gets to see of the IR and the report: map entries and status conditions. Pure: no I/O, no clock.

pub mod in_force;
pub mod maps;
pub mod proxy;
pub mod shares;
pub mod status;
