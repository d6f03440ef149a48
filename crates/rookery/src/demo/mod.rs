//! demo
use crate::exit::Failure;
pub(crate) fn run(_o: crate::cli::Demo, _r: &tokio::runtime::Runtime) -> Result<(), Failure> { Ok(()) }
