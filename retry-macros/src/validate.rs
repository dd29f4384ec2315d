//! Checks of the signature: what a function must have, and must not have, to be retried as a transaction.

use proc_macro2::{Ident, Span};
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, FnArg, GenericArgument, Lifetime, PatIdent, PatType, PathArguments, Receiver, ReceiverKind, ReturnType,
    Signature, Token, Type, TypePath, TypeReference, parse_quote, parse_quote_spanned,
};

use crate::args::Args;
use crate::error::Errors;
use crate::item::Item;

const TRANSACTION: &str = "the first parameter must be the transaction; write `tx: &mut Transaction<'_>`";

/// The parts of a valid signature that the expansion needs.
#[derive(Clone)]
pub(crate) struct Shape {
    /// The signature without its transaction parameter and without `mut` on its parameters.
    pub(crate) sig: Signature,
    /// The transaction parameter.
    pub(crate) tx: PatType,
    /// The type that the function returns.
    pub(crate) output: Type,
    /// The bindings declared `mut`.
    pub(crate) cloned: Vec<Cloned>,
}

/// A parameter declared `mut`: every attempt starts with a new clone.
#[derive(Clone)]
pub(crate) struct Cloned {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) mutability: Token![mut],
    pub(crate) ident: Ident,
}

/// Refuses a second `#[transactional]`, and tests: a test runner passes no source.
pub(crate) fn attributes(item: &mut Item, errors: &mut Errors) {
    let mut refuse = |name: &str, message: &str| {
        let is_named = |attr: &Attribute| attr.path().segments.last().is_some_and(|last| last.ident == name);
        let index = item.attrs.iter().position(is_named)?;
        errors.at(item.attrs.remove(index), message);
        Some(())
    };
    refuse("transactional", "`#[transactional]` given more than once");
    let test = "a test has no caller that passes a source; call a `#[transactional]` function from the test";
    if refuse("test", test).is_some() {
        // `#[tokio::test]` may have removed `async`.
        item.sig.asyncness.get_or_insert_with(Default::default);
    }
}

/// Checks `sig`, and puts errors into `errors`. Repairs `sig` if the repair is obvious, so that one mistake does not cause
/// more errors. `None` if it cannot be repaired.
pub(crate) fn shape(sig: &mut Signature, args: &Args, errors: &mut Errors) -> Option<Shape> {
    if is_boxed(sig) {
        errors.at(
            sig.fn_token,
            "`#[async_trait]` has already rewritten this function; put `#[transactional]` on a function that it calls",
        );
        return None;
    }
    if let Some(constness) = sig.constness.take() {
        errors.at(constness, "`#[transactional]` cannot be used on a `const fn`; remove `const`");
    } else if returns_future(sig) {
        errors.at(sig.fn_token, "write `async fn`, and return the `Result` itself instead of a future");
        return None;
    } else if sig.asyncness.is_none() {
        errors.at(sig.fn_token, "`#[transactional]` needs an `async fn`; add `async`");
    }
    if is_main(sig) {
        errors.at(&sig.ident, "`main` has no caller that passes a source; call a `#[transactional]` function from it");
    }
    if let Some(abi) = sig.abi.take_if(|abi| abi.name.as_ref().is_none_or(|name| name.value() != "Rust")) {
        errors.at(abi, "`#[transactional]` cannot be used on an `extern` function; remove `extern`");
    }
    if let Some(variadic) = sig.variadic.take() {
        errors.at(variadic, "`#[transactional]` cannot be used on a variadic function; remove the last parameter");
    }
    sig.asyncness.get_or_insert_with(Default::default);
    let mut output = output(sig);

    let mut sig = sig.clone();
    let tx = take_transaction(&mut sig, errors)?;
    if let Some(lifetime) = borrowed(&sig, &tx, &output) {
        let message =
            "the result borrows from the transaction, which ends before the function returns; return an owned value";
        output = refuse_output(&mut sig, lifetime.span(), message);
    }
    let mut cloned = Vec::new();
    for input in &mut sig.inputs {
        match input {
            FnArg::Receiver(receiver) => check_receiver(receiver, args, errors),
            FnArg::Typed(param) => {
                let mut bindings = Bindings { attrs: &param.attrs, cloned: &mut cloned, ref_mut: None };
                bindings.visit_pat_mut(&mut param.pat);
                check_param(&param.ty, bindings.ref_mut, args, errors);
            }
        }
    }
    Some(Shape { sig, tx, output, cloned })
}

/// The name of the function's twin, if it has one.
pub(crate) fn twin(sig: &Signature, args: &Args, errors: &mut Errors) -> Option<Ident> {
    let name = args.within.clone()?;
    if name == sig.ident {
        return errors.refuse(&name, format_args!("this is the function's own name; write `within = {name}_within`"));
    }
    Some(name)
}

/// Whether this is the program's `main`.
pub(crate) fn is_main(sig: &Signature) -> bool {
    sig.ident == "main" && sig.receiver().is_none()
}

/// Whether this is a plain function that returns a future.
fn returns_future(sig: &Signature) -> bool {
    let ReturnType::Type(_, output) = &sig.output else { return false };
    sig.asyncness.is_none() && matches!(strip(output), Type::ImplTrait(_))
}

/// Whether `#[async_trait]` has rewritten this `async fn`.
fn is_boxed(sig: &Signature) -> bool {
    sig.generics.lifetimes().any(|param| param.lifetime.ident == "async_trait")
}

/// The type that the function returns.
fn output(sig: &mut Signature) -> Type {
    if let ReturnType::Type(_, output) = &sig.output {
        return (**output).clone();
    }
    let message = "`#[transactional]` needs a function that returns a `Result`; add `-> Result<(), E>`";
    refuse_output(sig, sig.ident.span(), message)
}

/// Puts an error into the return type. rustc then reports no further errors in the body and the callers.
fn refuse_output(sig: &mut Signature, span: Span, message: &str) -> Type {
    let stated = if let ReturnType::Type(_, output) = &sig.output { Some(output) } else { None };
    let output: Type = parse_quote_spanned!(span=> ([(); { ::core::compile_error! { #message } }], #stated));
    sig.output = parse_quote!(-> #output);
    output
}

/// Removes the first parameter after `self` from the signature: it is the transaction.
fn take_transaction(sig: &mut Signature, errors: &mut Errors) -> Option<PatType> {
    let first = usize::from(sig.receiver().is_some());
    let mut inputs: Vec<FnArg> = std::mem::take(&mut sig.inputs).into_iter().collect();
    if inputs.len() == first {
        errors.at(&sig.ident, TRANSACTION);
        return None;
    }
    let lends = |input: &FnArg| matches!(input, FnArg::Typed(param) if referent(&param.ty).is_some_and(is_transaction));
    let index = inputs.iter().position(lends).unwrap_or(first);
    let FnArg::Typed(mut tx) = inputs.remove(index) else { return None };
    if index > first {
        errors.at(&tx.ty, "the transaction must be the first parameter; move it before the others");
    } else if is_transaction(&tx.ty) {
        errors.at(&tx.ty, TRANSACTION);
        let owned = tx.ty;
        tx.ty = parse_quote!(&mut #owned);
    } else if !matches!(referent(&tx.ty), Some(ty) if !matches!(ty, Type::ImplTrait(_))) {
        errors.at(&tx.ty, TRANSACTION);
        return None;
    }
    sig.inputs = inputs.into_iter().collect();
    Some(tx)
}

/// Whether this is a type named `Transaction`.
fn is_transaction(ty: &Type) -> bool {
    let Type::Path(TypePath { path, .. }) = strip(ty) else { return false };
    path.segments.last().is_some_and(|segment| segment.ident == "Transaction")
}

/// The type that a reference refers to.
fn referent(ty: &Type) -> Option<&Type> {
    match strip(ty) {
        Type::Reference(reference) => Some(strip(&reference.elem)),
        _ => None,
    }
}

/// A lifetime in the result that only the transaction has: the result borrows from it.
fn borrowed(sig: &Signature, tx: &PatType, output: &Type) -> Option<Lifetime> {
    let lent = Lifetimes::of(&tx.ty);
    let mut elsewhere = Lifetimes::default();
    sig.inputs.clone().iter_mut().for_each(|input| elsewhere.visit_fn_arg_mut(input));
    let declared = |lifetime: &Lifetime| sig.generics.lifetimes().any(|param| param.lifetime == *lifetime);
    let only_lent = |lifetime: &Lifetime| lent.contains(lifetime) && !elsewhere.0.contains(lifetime);
    Lifetimes::of(output).into_iter().find(|lifetime| declared(lifetime) && only_lent(lifetime))
}

fn check_receiver(receiver: &Receiver, args: &Args, errors: &mut Errors) {
    let is_mut = match &receiver.kind {
        ReceiverKind::Reference(_, _, mutability) => mutability.is_some(),
        ReceiverKind::Typed(_, ty) => receiver.mutability.is_some() || mut_reference(ty).is_some(),
        _ => receiver.mutability.is_some(),
    };
    if is_mut && args.allow_mut.is_none() {
        errors.at(receiver, "changes to `self` would survive a rolled-back attempt; take `&self`, or add `allow_mut`");
    }
}

fn check_param(ty: &Type, ref_mut: Option<Token![ref]>, args: &Args, errors: &mut Errors) {
    if args.allow_mut.is_some() {
        return;
    }
    if let Some(reference) = mut_reference(ty) {
        errors.at(
            reference,
            "changes made through `&mut` would survive a rolled-back attempt; return the value instead, or add `allow_mut`",
        );
    }
    if let Some(by_ref) = ref_mut {
        errors.at(
            by_ref,
            "changes made through `ref mut` would survive a rolled-back attempt; write `mut`, or add `allow_mut`",
        );
    }
}

/// The first `&mut T` in a type that the body can write through. This leaves out `&mut` behind a `&`, in the arguments of
/// function types, and in trait bounds.
fn mut_reference(ty: &Type) -> Option<&TypeReference> {
    match strip(ty) {
        Type::Reference(reference) => reference.mutability.is_some().then_some(reference),
        Type::Tuple(tuple) => tuple.elems.iter().find_map(mut_reference),
        Type::Array(array) => mut_reference(&array.elem),
        Type::Slice(slice) => mut_reference(&slice.elem),
        Type::Path(TypePath { qself: None, path, .. }) => {
            let last = path.segments.last().filter(|last| last.ident != "PhantomData")?;
            let PathArguments::AngleBracketed(generics) = &last.arguments else { return None };
            let types = generics.args.iter().filter_map(|arg| match arg {
                GenericArgument::Type(ty) => Some(ty),
                _ => None,
            });
            types.into_iter().find_map(mut_reference)
        }
        _ => None,
    }
}

/// Removes parentheses, and the invisible group that a `macro_rules!` macro puts around an argument.
fn strip(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => strip(&group.elem),
        Type::Paren(paren) => strip(&paren.elem),
        other => other,
    }
}

/// The lifetimes that a type names.
#[derive(Default)]
struct Lifetimes(Vec<Lifetime>);

impl Lifetimes {
    fn of(ty: &Type) -> Vec<Lifetime> {
        let mut named = Self::default();
        named.visit_type_mut(&mut ty.clone());
        named.0
    }
}

impl VisitMut for Lifetimes {
    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        self.0.push(lifetime.clone());
    }
}

/// Removes `mut` from a parameter's bindings and lists them.
struct Bindings<'a> {
    attrs: &'a [Attribute],
    cloned: &'a mut Vec<Cloned>,
    /// The `ref` of a binding declared `ref mut`.
    ref_mut: Option<Token![ref]>,
}

impl VisitMut for Bindings<'_> {
    fn visit_pat_ident_mut(&mut self, binding: &mut PatIdent) {
        if binding.by_ref.is_some() {
            self.ref_mut = binding.mutability.and(binding.by_ref);
        } else if let Some(mutability) = binding.mutability.take() {
            self.cloned.push(Cloned { attrs: self.attrs.to_vec(), mutability, ident: binding.ident.clone() });
        }
        visit_mut::visit_pat_ident_mut(self, binding);
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    #[test]
    fn a_test_that_tokio_has_rewritten_is_only_a_test() {
        let mut item: Item = syn::parse2(quote! {
            #[::core::prelude::v1::test]
            fn touches(tx: &mut Transaction<'_>) -> Result<(), Error> {
                runtime.block_on(async { tx.batch_execute("SELECT 1").await })
            }
        })
        .expect("a function");
        let mut errors = Errors::default();
        attributes(&mut item, &mut errors);
        assert!(shape(&mut item.sig, &Args::default(), &mut errors).is_some());
        assert!(item.attrs.is_empty());
        assert_eq!(errors.messages().len(), 1);
    }
}
