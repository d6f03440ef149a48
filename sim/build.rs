//! Makes the library that takes chance and the wall clock away from a simulation.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where"));
    let shim = out.join("shim.so");
    println!("cargo:rerun-if-changed=shim.c");
    println!("cargo:rustc-env=ROOKERY_SIM_SHIM_BUILT={}", shim.display());
    let built =
        Command::new("cc").args(["-O2", "-Wall", "-shared", "-fPIC", "-o"]).arg(&shim).arg("shim.c").status();
    assert!(built.is_ok_and(|status| status.success()), "cc has to be there, as for the linker");
}
