//! A Rust program on the C interface, with plain `extern "C"` and no crates: a prompt is computed, found
//! again by a second sequence, and read back.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr;

#[repr(C)]
#[derive(Clone, Copy)]
struct Seq {
    id: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Plan {
    id: u64,
}

#[repr(C)]
struct Entry {
    seq: Seq,
    tokens: *const u32,
    count: u32,
}

#[repr(C)]
struct Array {
    data: *mut c_void,
    dtype: u32,
    row_stride: u64,
    head_stride: u64,
}

#[repr(C)]
struct Attention {
    q: Array,
    out: Array,
    lse: *mut f32,
    query_heads: u32,
    scale: f32,
    softcap: f32,
    sink_logits: *const f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GroupConfig {
    layers: u32,
    kv_heads: u32,
    key_dim: u32,
    value_dim: u32,
    k_dtype: u32,
    v_dtype: u32,
    block_tokens: u32,
    window: u32,
    sinks: u32,
}

#[repr(C)]
struct Hook {
    function: *const c_void,
    ctx: *mut c_void,
}

#[repr(C)]
struct EvictionHook {
    choose: *const c_void,
    ctx: *mut c_void,
    offer_max: u32,
    note: *const c_void,
}

#[repr(C)]
struct Config {
    struct_size: u32,
    version: u32,
    device: *const c_char,
    isa: *const c_char,
    group_count: u32,
    blocks: u32,
    groups: [GroupConfig; 8],
    sequences_max: u32,
    sequence_tokens_max: u32,
    plans_max: u32,
    plan_sequences_max: u32,
    plan_tokens_max: u32,
    table_leaves_max: u32,
    trace_events_max: u32,
    threads: u32,
    prefix_off: u32,
    seed: u64,
    faults: *const c_char,
    fault_seed: u64,
    memory: Hook,
    parallel: Hook,
    device_ordinal: u32,
    host_blocks: u32,
    transfers_max: u32,
    swap_layers: u32,
    announced_pages_max: u32,
    key_sets_max: u32,
    key_bytes_max: u32,
    eviction: *const c_char,
    eviction_hook: EvictionHook,
    tenants_max: u32,
    allocator: u32,
    arena: *mut c_void,
    cow: u32,
    graph_sequences_max: u32,
    graph_sequence_tokens_max: u32,
    graph_query_heads: u32,
    retained_max: u32,
    cow_whole: u32,
}

#[repr(C)]
struct Cache {
    _private: [u8; 0],
}

extern "C" {
    fn pkv_version() -> u32;
    fn pkv_status_message(status: c_int) -> *const c_char;
    fn pkv_config_init(config: *mut Config, version: u32) -> c_int;
    fn pkv_cache_create(config: *const Config, cache: *mut *mut Cache) -> c_int;
    fn pkv_cache_destroy(cache: *mut Cache);
    fn pkv_seq_create(cache: *mut Cache, tenant: u64, seq: *mut Seq) -> c_int;
    fn pkv_seq_match(cache: *mut Cache, seq: Seq, tokens: *const u32, count: u32, matched: *mut u32) -> c_int;
    fn pkv_seq_free(cache: *mut Cache, seq: Seq) -> c_int;
    fn pkv_plan_begin(cache: *mut Cache, entries: *const Entry, count: u32, plan: *mut Plan) -> c_int;
    fn pkv_write(cache: *mut Cache, plan: Plan, layer: u32, k: *const Array, v: *const Array) -> c_int;
    fn pkv_attend(cache: *mut Cache, plan: Plan, layer: u32, attention: *const Attention) -> c_int;
    fn pkv_plan_commit(cache: *mut Cache, plan: Plan) -> c_int;
    fn pkv_seq_read(
        cache: *mut Cache, seq: Seq, layer: u32, begin: u32, end: u32, k: *const Array, v: *const Array,
    ) -> c_int;
}

const KV_HEADS: usize = 2;
const HEADS: usize = 4;
const DIM: usize = 16;
const F32: u32 = 0;

/// Turns a status into a message.
fn check(status: c_int) -> Result<(), String> {
    if status == 0 {
        return Ok(());
    }
    let message = unsafe { CStr::from_ptr(pkv_status_message(status)) };
    Err(message.to_string_lossy().into_owned())
}

/// A packed array of f32.
fn array(values: &mut [f32]) -> Array {
    Array { data: values.as_mut_ptr().cast(), dtype: F32, row_stride: 0, head_stride: 0 }
}

/// The cache, destroyed at the end of its scope.
struct Owned(*mut Cache);

impl Drop for Owned {
    fn drop(&mut self) {
        unsafe { pkv_cache_destroy(self.0) }
    }
}

fn create() -> Result<Owned, String> {
    unsafe {
        let mut config: Config = std::mem::zeroed();
        check(pkv_config_init(&mut config, pkv_version()))?;
        assert_eq!(config.struct_size as usize, std::mem::size_of::<Config>(), "layout of pkv_config");
        config.groups[0].layers = 1;
        config.groups[0].kv_heads = KV_HEADS as u32;
        config.groups[0].key_dim = DIM as u32;
        config.blocks = 8;
        let mut cache = ptr::null_mut();
        check(pkv_cache_create(&config, &mut cache))?;
        Ok(Owned(cache))
    }
}

/// Computes the tokens of one sequence in one step and returns the keys that were written.
fn compute(cache: &Owned, seq: Seq, tokens: &[u32]) -> Result<Vec<f32>, String> {
    let rows = tokens.len();
    let mut k: Vec<f32> = (0..rows * KV_HEADS * DIM).map(|i| (i % 97) as f32 / 97.0).collect();
    let mut v = vec![0.25f32; rows * KV_HEADS * DIM];
    let mut q = vec![1.0f32; rows * HEADS * DIM];
    let mut out = vec![0.0f32; rows * HEADS * DIM];
    unsafe {
        let entry = Entry { seq, tokens: tokens.as_ptr(), count: rows as u32 };
        let mut plan = Plan { id: 0 };
        check(pkv_plan_begin(cache.0, &entry, 1, &mut plan))?;
        check(pkv_write(cache.0, plan, 0, &array(&mut k), &array(&mut v)))?;
        let attention = Attention {
            q: array(&mut q),
            out: array(&mut out),
            lse: ptr::null_mut(),
            query_heads: HEADS as u32,
            scale: 0.0,
            softcap: 0.0,
            sink_logits: ptr::null(),
        };
        check(pkv_attend(cache.0, plan, 0, &attention))?;
        check(pkv_plan_commit(cache.0, plan))?;
    }
    assert!(out.iter().all(|x| (x - 0.25).abs() < 1e-6), "attention over constant values");
    Ok(k)
}

fn main() -> Result<(), String> {
    let cache = create()?;
    let prompt: Vec<u32> = (0..40).collect();
    let (mut first, mut second) = (Seq { id: 0 }, Seq { id: 0 });
    let mut matched = 0;
    unsafe {
        check(pkv_seq_create(cache.0, 0, &mut first))?;
        let written = compute(&cache, first, &prompt)?;
        check(pkv_seq_free(cache.0, first))?;
        check(pkv_seq_create(cache.0, 0, &mut second))?;
        check(pkv_seq_match(cache.0, second, prompt.as_ptr(), 39, &mut matched))?;
        let mut k = vec![0.0f32; matched as usize * KV_HEADS * DIM];
        check(pkv_seq_read(cache.0, second, 0, 0, matched, &array(&mut k), ptr::null()))?;
        assert_eq!(k[..], written[..k.len()], "keys of the shared prefix");
        assert!(check(pkv_seq_free(cache.0, first)).is_err(), "a stale handle is refused");
    }
    println!("{matched} tokens found again");
    Ok(())
}
