//! Keeps `transfer_expanded.rs` honest: its function is what the attribute makes of the one in `transfer.rs`.

// The crate of a proc macro exports nothing but the macro, so its sources are taken in here.
#[path = "../../retry-macros/src/args.rs"]
mod args;
#[path = "../../retry-macros/src/error.rs"]
mod error;
#[path = "../../retry-macros/src/expand.rs"]
mod expand;
#[path = "../../retry-macros/src/item.rs"]
mod item;
#[path = "../../retry-macros/src/validate.rs"]
mod validate;
#[path = "../../retry-macros/src/value.rs"]
mod value;

use std::path::Path;

use quote::ToTokens;
use syn::{File, Item, ItemFn};

#[test]
fn transfer_expanded_is_the_expansion_of_transfer() {
    let (function, arguments) = annotated(read("transfer.rs"));
    let expansion = syn::parse2(expand::expand(arguments, function.to_token_stream())).expect("the expansion");
    let expected = text(expansion);
    let found = text(the_function(read("transfer_expanded.rs")));
    let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(found == expected, "transfer_expanded.rs differs first here: {differs:#?}\nThe expansion is\n\n{expected}");
}

fn read(name: &str) -> File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    syn::parse_file(&std::fs::read_to_string(path).expect(name)).expect(name)
}

/// The function called `transfer`.
fn the_function(file: File) -> ItemFn {
    let functions = file.items.into_iter().filter_map(|item| match item {
        Item::Fn(function) if function.sig.ident == "transfer" => Some(function),
        _ => None,
    });
    functions.into_iter().next().expect("a function called `transfer`")
}

/// That function without `#[transactional]`, and what stood in its parentheses.
fn annotated(file: File) -> (ItemFn, proc_macro2::TokenStream) {
    let mut function = the_function(file);
    let at = function.attrs.iter().position(|attr| attr.path().is_ident("transactional")).expect("the attribute");
    let attribute = function.attrs.remove(at);
    (function, attribute.meta.require_list().expect("options").tokens.clone())
}

/// The tokens, laid out the same way whoever wrote them.
fn text(function: ItemFn) -> String {
    prettyplease::unparse(&File {
        shebang: None,
        frontmatter: None,
        attrs: Vec::new(),
        items: vec![Item::Fn(function)],
    })
}
