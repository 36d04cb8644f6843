//! Asks pkg-config where libpagedkv is and hands that on to the linker.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    let output = Command::new("pkg-config")
        .args(["--libs", "pagedkv"])
        .output()
        .expect("pkg-config runs");
    assert!(output.status.success(), "pkg-config finds pagedkv");
    for flag in String::from_utf8(output.stdout).expect("flags are text").split_whitespace() {
        if let Some(folder) = flag.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={folder}");
            println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
        } else if let Some(library) = flag.strip_prefix("-l") {
            println!("cargo:rustc-link-lib=dylib={library}");
        }
    }
}
