//! Loss of power without pulling a plug: the server's file calls are recorded by a shim (`tests/powerloss/shim.c`), and
//! a disk is rebuilt from the record as it could be after power was lost at any moment of it.

pub mod disk;
pub mod trace;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::command;

/// The shim's file, compiled anew into `folder`.
pub fn compile_shim(folder: &Path) -> Result<PathBuf> {
    let shim = folder.join("powerloss-shim.so");
    let source = crate::workspace().join("tests/powerloss/shim.c").display().to_string();
    let target = shim.display().to_string();
    let args = ["-O2", "-Wall", "-shared", "-fPIC", "-o", &target, &source, "-ldl", "-lpthread"];
    command::ok("cc", &args, b"")?;
    Ok(shim)
}

/// The variables that make a program record its changes below `data` into the file `trace`.
pub fn environment(shim: &Path, data: &Path, trace: &Path) -> [(&'static str, OsString); 3] {
    [
        ("LD_PRELOAD", shim.into()),
        ("ROOKERY_POWERLOSS_DIR", data.into()),
        ("ROOKERY_POWERLOSS_TRACE", trace.into()),
    ]
}
