//! The rules that a function must keep to be run as a retried transaction.

use proc_macro2::Ident;
use syn::visit_mut::{self, VisitMut};
use syn::{FnArg, Pat, PatIdent, PatType, Receiver, ReceiverKind, ReturnType, Signature, Type};

use crate::args::Args;
use crate::error::Errors;

/// What the expansion needs to know of a signature that keeps the rules.
pub(crate) struct Shape {
    /// The signature without its transaction parameter and without `mut` on its parameters.
    pub(crate) sig: Signature,
    /// The transaction parameter.
    pub(crate) tx: PatType,
    /// Whether the transaction parameter is `&mut`.
    pub(crate) tx_mut: bool,
    /// Where the transaction parameter stood.
    pub(crate) tx_index: usize,
    /// The type that the function returns.
    pub(crate) output: Type,
    /// The bindings declared `mut`, each cloned afresh for every attempt.
    pub(crate) cloned: Vec<Ident>,
}

/// Checks `sig`; what breaks a rule is in `errors`.
pub(crate) fn shape(sig: &Signature, args: &Args, errors: &mut Errors) -> Option<Shape> {
    if sig.asyncness.is_none() {
        errors.at(sig.fn_token, "#[transactional] needs an `async fn`; add `async`");
    }
    if let Some(constness) = &sig.constness {
        errors.at(constness, "#[transactional] cannot be used on a `const fn`");
    }
    if let Some(variadic) = &sig.variadic {
        errors.at(variadic, "#[transactional] cannot be used on a variadic function");
    }
    let output = match &sig.output {
        ReturnType::Type(_, output) => Some((**output).clone()),
        ReturnType::Default => {
            errors.at(&sig.ident, "#[transactional] needs a function that returns a `Result`; add `-> Result<(), E>`");
            None
        }
    };
    let mut sig = sig.clone();
    let tx = take_transaction(&mut sig, errors);
    let mut cloned = Vec::new();
    for input in &mut sig.inputs {
        match input {
            FnArg::Receiver(receiver) => check_receiver(receiver, args, errors),
            FnArg::Typed(param) => {
                if args.allow_mut.is_none() {
                    check_param(param, errors);
                }
                TakeMut(&mut cloned).visit_pat_mut(&mut param.pat);
            }
        }
    }
    let (tx, tx_mut, tx_index) = tx?;
    Some(Shape { sig, tx, tx_mut, tx_index, output: output?, cloned })
}

/// Takes the first parameter after `self` out of the signature: it is the transaction.
fn take_transaction(sig: &mut Signature, errors: &mut Errors) -> Option<(PatType, bool, usize)> {
    const EXPECTED: &str = "the first parameter is the transaction; write `tx: &mut Transaction<'_>`";
    let index = usize::from(sig.receiver().is_some());
    let inputs = std::mem::take(&mut sig.inputs);
    let mut tx = None;
    for (position, input) in inputs.into_iter().enumerate() {
        match input {
            FnArg::Typed(param) if position == index => tx = Some(param),
            other => sig.inputs.push(other),
        }
    }
    let Some(tx) = tx else {
        errors.at(&sig.ident, EXPECTED);
        return None;
    };
    match &*tx.ty {
        Type::Reference(reference) => {
            let is_mut = reference.mutability.is_some();
            Some((tx, is_mut, index))
        }
        other => {
            errors.at(other, EXPECTED);
            None
        }
    }
}

fn check_receiver(receiver: &Receiver, args: &Args, errors: &mut Errors) {
    let is_mut = match &receiver.kind {
        ReceiverKind::Reference(_, _, mutability) => mutability.is_some(),
        ReceiverKind::Typed(_, ty) => receiver.mutability.is_some() || is_mut_reference(ty),
        _ => receiver.mutability.is_some(),
    };
    if is_mut && args.allow_mut.is_none() {
        errors.at(receiver, "what a rolled-back attempt writes to `self` would stay; take `&self`, or say `allow_mut`");
    }
}

fn check_param(param: &PatType, errors: &mut Errors) {
    if is_mut_reference(&param.ty) {
        errors.at(
            &param.ty,
            "what a rolled-back attempt writes to this parameter would stay; return the value instead, or say `allow_mut`",
        );
    }
    if let Pat::Ident(PatIdent { by_ref: Some(by_ref), mutability: Some(_), .. }) = &*param.pat {
        errors.at(
            by_ref,
            "what a rolled-back attempt writes to this parameter would stay; declare it `mut`, or say `allow_mut`",
        );
    }
}

fn is_mut_reference(ty: &Type) -> bool {
    matches!(ty, Type::Reference(reference) if reference.mutability.is_some())
}

/// Removes `mut` from bindings and lists them.
struct TakeMut<'a>(&'a mut Vec<Ident>);

impl VisitMut for TakeMut<'_> {
    fn visit_pat_ident_mut(&mut self, binding: &mut PatIdent) {
        if binding.by_ref.is_none() && binding.mutability.take().is_some() {
            self.0.push(binding.ident.clone());
        }
        visit_mut::visit_pat_ident_mut(self, binding);
    }
}
