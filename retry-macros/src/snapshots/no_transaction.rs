async fn touch(id: i64) -> Result<(), Error> {
    Ok(())
}
::core::compile_error! {
    "`#[transactional]` needs an `async fn`; add `async`"
}
::core::compile_error! {
    "the first parameter must be the transaction; write `tx: &mut Transaction<'_>`"
}
