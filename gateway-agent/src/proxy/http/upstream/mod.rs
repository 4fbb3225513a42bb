//! Towards backends: pick → pool → connect.

pub mod balance;
pub mod connect;
pub mod pool;
pub mod tls;
