//! FETCH data: what is asked, where it comes from, and how it is written.
//!
//! Invariants:
//! - What memory knows (flags, UIDs, sizes, dates) is written without a thread; what needs records or content is
//!   rendered on blocking threads in batches of bounded size.
//! - A body larger than a piece is never whole in memory.

mod body;
mod plan;
mod render;

pub(crate) use body::{Content, Data, WHOLE_OCTETS_MAX, cut, within};
pub(crate) use plan::{Plan, Source};
pub(crate) use render::{Encoded, Job, Piece, Rendered, render, render_from_memory};
