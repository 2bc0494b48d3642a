//! Compiles `coordinator.proto` with protox, so that a plain `cargo build` needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=coordinator.proto");
    let descriptors = protox::compile(["coordinator.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
