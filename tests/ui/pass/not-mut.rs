//! A parameter type may contain `&mut` if the body cannot write to the caller's data through it.

#![allow(dead_code, clippy::type_complexity)]

use std::marker::PhantomData;

use retry_runtime::{Error, Transaction, transactional};

trait Visitor<T> {
    fn visit(&self, value: T);
}

#[transactional]
async fn called(
    tx: &mut Transaction<'_>,
    function: fn(&mut u32),
    closure: impl Fn(&mut u32),
    boxed: Option<Box<dyn Fn(&mut u32) + Send + Sync>>,
    visitor: &dyn for<'a> Visitor<&'a mut u32>,
) -> Result<u32, Error> {
    let mut count = tx.attempt();
    function(&mut count);
    closure(&mut count);
    boxed.iter().for_each(|boxed| boxed(&mut count));
    visitor.visit(&mut count);
    Ok(count)
}

#[transactional]
async fn read(
    tx: &mut Transaction<'_>,
    shared: &[&mut u32],
    option: &Option<&mut u32>,
    marker: PhantomData<&mut u32>,
) -> Result<u32, Error> {
    let PhantomData = marker;
    let sum: u32 = shared.iter().chain(option).map(|value| **value).sum();
    Ok(sum + tx.attempt())
}

fn main() {}
