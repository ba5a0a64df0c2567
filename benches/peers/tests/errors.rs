//! Errors name the library that cannot be loaded and the operation that cannot be computed.

use std::path::Path;
use tilewright_peers::{Dtype, PeerOperation, built_in, load};

/// The error of loading, which must name the library and the path.
fn refused(name: &str, path: &str) -> String {
    let Err(error) = load(name, Path::new(path)) else { panic!("{name}={path} was loaded") };
    let error = error.to_string();
    assert!(error.starts_with(&format!("{name}={path}: ")), "{error}");
    error
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let error = refused("blis", "/lib/libblis.so");
    assert!(error.contains("mkl, openblas, onednn"), "{error}");
}

#[test]
fn a_file_that_is_not_there() {
    for name in ["mkl", "openblas", "onednn"] {
        let error = refused(name, "/no/such/file.so");
        assert!(error.contains("cannot be loaded: "), "{error}");
    }
}

#[test]
fn a_file_that_is_no_library() {
    for name in ["mkl", "openblas", "onednn"] {
        let error = refused(name, concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert!(error.contains("cannot be loaded: "), "{error}");
    }
}

#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn another_library() {
    for (name, function) in
        [("mkl", "MKL_Set_Num_Threads"), ("openblas", "openblas_get_config"), ("onednn", "dnnl_version")]
    {
        let error = refused(name, "libm.so.6");
        assert!(error.contains(&format!("has no function {function}")), "{error}");
    }
}

#[test]
fn slices_that_do_not_fit_their_shape() {
    let numbers = [1.0; 12];
    for library in built_in() {
        for shape in [[3, 4, 4], [4, 3, 3], [0, 4, 3], [usize::MAX, 4, 3], [3, usize::MAX, 4]] {
            let dtype = Dtype::F32;
            let linear = PeerOperation::Linear { shape, x: &numbers, weight: &numbers, dtype, packed: false };
            assert!(library.prepare(linear, 1).is_err(), "{}: {shape:?}", library.name());
        }
    }
}

#[test]
fn what_the_crates_cannot_do() {
    let numbers = [1.0; 12];
    for library in built_in() {
        let softmax = PeerOperation::Softmax { shape: [3, 4], x: &numbers };
        assert!(library.prepare(softmax, 1).is_ok_and(|call| call.is_none()));
        let linear = PeerOperation::Linear {
            shape: [3, 4, 3],
            x: &numbers,
            weight: &numbers,
            dtype: Dtype::F32,
            packed: true,
        };
        assert!(library.prepare(linear, 0).is_ok_and(|call| call.is_none()));
        let several = library.prepare(linear, 2).is_ok_and(|call| call.is_some());
        assert_eq!(several, library.name() == "gemm");
    }
}
