//! Readable names for what the linkers of C++ and Rust write.

use cpp_demangle::{DemangleOptions, Symbol};

/// The longest name we demangle, in bytes. Longer ones are kept raw: demangling may blow up.
const MOST_BYTES: usize = 16 << 10;

/// What the name of a function's entry of linkage ends in.
const LINKAGE: &str = "@plt";

/// The readable form of a mangled name; `None` for a name that is not mangled.
pub(crate) fn readable(raw: &str) -> Option<String> {
    if raw.len() > MOST_BYTES {
        return None;
    }
    if let Some(function) = raw.strip_suffix(LINKAGE) {
        return Some(readable(function)? + LINKAGE);
    }
    // Without the hash that Rust appends: it is the same for nobody.
    if let Ok(name) = rustc_demangle::try_demangle(raw) {
        return Some(format!("{name:#}"));
    }
    if !raw.starts_with("_Z") {
        return None;
    }
    let symbol = Symbol::new(raw).ok()?;
    let name = symbol
        .demangle_with_options(&DemangleOptions::new().no_return_type())
        .ok()?;
    (name != raw).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &str, expected: Option<&str>) {
        assert_eq!(readable(raw).as_deref(), expected);
    }

    #[test]
    fn names_of_cpp_and_both_rust_schemes_are_readable() {
        check(
            "_ZN4core3ptr13drop_in_place17h0123456789abcdefE",
            Some("core::ptr::drop_in_place"),
        );
        check("_RNvNtCs1234_7mycrate3foo3bar", Some("mycrate::foo::bar"));
        check("_ZN3foo3barEi", Some("foo::bar(int)"));
        check("_ZN3foo3barEi@plt", Some("foo::bar(int)@plt"));
        check(
            "_ZNSt6vectorIiSaIiEE9push_backERKi",
            Some("std::vector<int, std::allocator<int> >::push_back(int const&)"),
        );
    }

    #[test]
    fn other_names_stay_as_they_are() {
        check("main", None);
        check("read@plt", None);
        check("net/http.(*conn).serve", None);
        check("_Z", None);
        check("_start", None);
    }
}
