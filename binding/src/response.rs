//! The engine's response, as the binding uses it.
//! Must not know: what is done with it.

use bjoern_engine::io::SystemSocket;

use crate::ffi::Block;

/// The response being given.
pub type Reply = bjoern_engine::Reply<SystemSocket, Block>;

/// The place where it lies while the application's code runs.
pub type ReplySlot = bjoern_engine::ReplySlot<SystemSocket, Block>;
