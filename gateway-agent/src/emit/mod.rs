//! What the outside gets to see of the IR and the report. Pure: no I/O, no clock.

pub mod status;
