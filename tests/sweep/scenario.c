/* scenario.c - see scenario.h. Steps stand in the order in which they run. */
#include "sweep/scenario.h"

#include <math.h>
#include <string.h>

enum { A, B, C, D }; /* sequences: B is a fork of A, C shares its prefix, D is of another tenant */

enum { DIM = SCENARIO_DIM };

const scenario_kind scenario_kinds[] = {
    {"sim", "sim", false, PKV_COW_WRITE},
    {"cpu", "cpu", false, PKV_COW_WRITE},
    {"sim with scales", "sim", true, PKV_COW_WRITE},
    {"cpu with scales", "cpu", true, PKV_COW_WRITE},
    {"sim, copying at forks", "sim", false, PKV_COW_FORK},
};

const uint32_t scenario_kind_count = sizeof scenario_kinds / sizeof *scenario_kinds;

static uint32_t quarter_of(const scenario_kind* kind) {
    return kind->is_scaled ? 4 : 1;
}

pkv_config scenario_config(const scenario_kind* kind) {
    const uint32_t quarter = quarter_of(kind);
    pkv_config config;
    pkv_config_init(&config, PKV_VERSION);
    config.device = kind->device;
    config.faults = "";
    config.groups[0] = (pkv_group_config){
        .layers = 1,
        .kv_heads = 1,
        .key_dim = DIM,
        .k_dtype = kind->is_scaled ? PKV_I4 : PKV_F32,
        .v_dtype = kind->is_scaled ? PKV_I8 : PKV_F32,
        .block_tokens = 4 * quarter,
    };
    config.blocks = 12;
    config.host_blocks = 12;
    config.transfers_max = 1;
    config.tenants_max = 2;
    config.cow = kind->cow;
    config.retained_max = 8;
    config.sequences_max = SCENARIO_SEQS;
    config.sequence_tokens_max = 48 * quarter;
    config.plan_tokens_max = 48 * quarter;
    config.trace_events_max = 32;
    config.seed = 11;
    return config;
}

void scenario_start(scenario* s, pkv_cache* cache, const scenario_kind* kind) {
    memset(s, 0, sizeof *s);
    s->cache = cache;
    s->quarter = quarter_of(kind);
    s->v_unit = kind->is_scaled ? 127.0F : 1.0F;
    for (uint32_t i = 0; i < SCENARIO_TOKENS; i++)
        s->tokens[i] = 100 + i;
}

/* ---- Parts of steps -------------------------------------------------------------------------- */

static void expect(scenario* s, bool holds) {
    if (!holds) s->is_wrong = true;
}

static int create(scenario* s, uint32_t which, uint64_t tenant) {
    pkv_seq seq;
    const int status = pkv_seq_create(s->cache, tenant, &seq);
    if (status == PKV_OK) s->seqs[which] = seq;
    return status;
}

static int begin(scenario* s, const pkv_entry* entries, uint32_t count) {
    pkv_plan plan;
    const int status = pkv_plan_begin(s->cache, entries, count, &plan);
    if (status == PKV_OK) s->plan = plan;
    return status;
}

/* K of row i is first + i in all elements, which is its minimum in i4. V is the negative, times 127
 * in i8, so that first + i is its scale. */
static void fill(scenario* s, uint32_t rows, uint32_t first) {
    for (uint32_t i = 0; i < rows * DIM; i++) {
        s->k[i] = (float)(first + i / DIM);
        s->v[i] = -s->v_unit * s->k[i];
    }
}

static int write_plan(scenario* s, uint32_t rows, uint32_t first) {
    const pkv_array k = {.data = s->k};
    const pkv_array v = {.data = s->v};
    fill(s, rows, first);
    return pkv_write(s->cache, s->plan, 0, &k, &v);
}

static int attend(scenario* s) {
    memset(s->k, 0, sizeof s->k);
    const pkv_attention attention = {
        .q = {.data = s->k}, .out = {.data = s->out}, .lse = s->lse, .query_heads = 1};
    return pkv_attend(s->cache, s->plan, 0, &attention);
}

/* Read one position and compare K and V with `want`. */
static int read_one(scenario* s, uint32_t which, uint32_t position, float want) {
    float k[DIM];
    float v[DIM];
    const pkv_array k_array = {.data = k};
    const pkv_array v_array = {.data = v};
    const int status =
        pkv_seq_read(s->cache, s->seqs[which], 0, position, position + 1, &k_array, &v_array);
    if (status != PKV_OK) return status;
    for (uint32_t d = 0; d < DIM; d++) {
        expect(s, k[d] == want);
        expect(s, v[d] == -s->v_unit * want);
    }
    return PKV_OK;
}

/* What A wrote at first, into blocks that were shared or copied since. */
static int read_first(scenario* s, uint32_t which, uint32_t position) {
    return read_one(s, which, position, (float)position);
}

/* ---- A is computed --------------------------------------------------------------------------- */

static int create_a(scenario* s) {
    return create(s, A, 1);
}

static int match_a(scenario* s) {
    const int status = pkv_seq_match(s->cache, s->seqs[A], s->tokens, 10 * s->quarter, &s->matched);
    if (status == PKV_OK) expect(s, s->matched == 0);
    return status;
}

static int begin_a(scenario* s) {
    const pkv_entry entry = {s->seqs[A], s->tokens, 10 * s->quarter};
    return begin(s, &entry, 1);
}

static int info_a(scenario* s) {
    pkv_plan_info info;
    const int status = pkv_plan_get_info(s->cache, s->plan, 0, &info);
    const uint32_t count = 10 * s->quarter;
    if (status == PKV_OK) expect(s, info.tokens == count && info.positions[count - 1] == count - 1);
    return status;
}

static int write_a(scenario* s) {
    return write_plan(s, 10 * s->quarter, 0);
}

/* The last row sees all: minus the mean of 0 to its position, as exactly as the weights are. */
static int attend_a(scenario* s) {
    const uint32_t last = 10 * s->quarter - 1;
    const float want = -s->v_unit * (float)last / 2.0F;
    const float tolerance = s->v_unit > 1.0F ? 0x1p-8F * -want : 0.0F;
    const int status = attend(s);
    if (status == PKV_OK) expect(s, fabsf(s->out[last * DIM] - want) <= tolerance);
    return status;
}

static int commit_plan(scenario* s) {
    return pkv_plan_commit(s->cache, s->plan);
}

/* Also its last block, which is not full. */
static int retain_a(scenario* s) {
    const pkv_retention retention = {.priority = 80, .duration_us = 1000, .ttl_us = UINT64_MAX};
    uint32_t retained = 0;
    const int status =
        pkv_seq_retain(s->cache, s->seqs[A], 0, 10 * s->quarter, &retention, &retained);
    if (status == PKV_OK) expect(s, retained == 3);
    return status;
}

/* ---- B is a fork of A; both go on ------------------------------------------------------------ */

static int fork_b(scenario* s) {
    pkv_seq child;
    const int status = pkv_seq_fork(s->cache, s->seqs[A], &child);
    if (status == PKV_OK) s->seqs[B] = child;
    return status;
}

static int begin_ab(scenario* s) {
    const uint32_t* tokens = s->tokens + 10 * s->quarter;
    const pkv_entry entries[2] = {{s->seqs[A], tokens, 1}, {s->seqs[B], tokens + 10, 1}};
    return begin(s, entries, 2);
}

static int write_ab(scenario* s) {
    return write_plan(s, 2, 500);
}

static int read_a(scenario* s) {
    const int status = read_one(s, A, 10 * s->quarter, 500);
    return status == PKV_OK ? read_first(s, A, 10 * s->quarter - 1) : status;
}

static int read_b(scenario* s) {
    const int status = read_one(s, B, 10 * s->quarter, 501);
    return status == PKV_OK ? read_first(s, B, 10 * s->quarter - 1) : status;
}

static int info_seq(scenario* s) {
    pkv_seq_info info;
    uint32_t blocks[3];
    int status = pkv_seq_get_info(s->cache, s->seqs[B], &info);
    if (status == PKV_OK) status = pkv_seq_blocks(s->cache, s->seqs[B], 0, 0, 3, blocks);
    if (status == PKV_OK) expect(s, info.length == 10 * s->quarter + 1 && blocks[0] != blocks[1]);
    return status;
}

static int truncate_b(scenario* s) {
    return pkv_seq_truncate(s->cache, s->seqs[B], 6 * s->quarter);
}

static int append_b(scenario* s) {
    return pkv_seq_append(s->cache, s->seqs[B], s->tokens + 30 * s->quarter, 3 * s->quarter, NULL);
}

static int write_b(scenario* s) {
    const pkv_array k = {.data = s->k};
    const pkv_array v = {.data = s->v};
    fill(s, 3 * s->quarter, 600);
    return pkv_seq_write(s->cache, s->seqs[B], 0, &k, &v);
}

static int commit_b(scenario* s) {
    return pkv_seq_commit(s->cache, s->seqs[B]);
}

static int read_b_again(scenario* s) {
    const int status = read_one(s, B, 6 * s->quarter + 2, 602);
    return status == PKV_OK ? read_first(s, B, 6 * s->quarter - 1) : status;
}

/* ---- B goes on with one of two guesses -------------------------------------------------------- */

static int begin_tree_b(scenario* s) {
    static const uint32_t fork[3] = {PKV_NO_PARENT, 0, 0};
    const pkv_entry entry = {s->seqs[B], s->tokens + 34 * s->quarter, 3};
    const uint32_t* const parents = fork;
    pkv_plan plan;
    const int status = pkv_plan_begin_trees(s->cache, &entry, &parents, 1, &plan);
    if (status == PKV_OK) s->plan = plan;
    return status;
}

static int write_tree_b(scenario* s) {
    return write_plan(s, 3, 700);
}

/* The last row sees what was committed, its parent and itself. */
static int attend_tree_b(scenario* s) {
    const int status = attend(s);
    const float want = logf((float)(9 * s->quarter + 2));
    if (status == PKV_OK) expect(s, fabsf(s->lse[2] - want) <= 1e-5F);
    return status;
}

static int accept_b(scenario* s) {
    static const uint32_t second[2] = {0, 2};
    const pkv_path path = {second, 2};
    return pkv_plan_accept(s->cache, s->plan, &path, 1);
}

static int read_tree_b(scenario* s) {
    const int status = read_one(s, B, 9 * s->quarter, 700);
    return status == PKV_OK ? read_one(s, B, 9 * s->quarter + 1, 702) : status;
}

/* ---- C finds the prefix of A; a plan of it is given up --------------------------------------- */

static int create_c(scenario* s) {
    return create(s, C, 1);
}

static int match_c(scenario* s) {
    const int status = pkv_seq_match(s->cache, s->seqs[C], s->tokens, 9 * s->quarter, &s->matched);
    if (status == PKV_OK) expect(s, s->matched == 8 * s->quarter);
    return status;
}

static int begin_c(scenario* s) {
    const pkv_entry entry = {s->seqs[C], s->tokens + 8 * s->quarter, 5 * s->quarter};
    return begin(s, &entry, 1);
}

static int abort_c(scenario* s) {
    return pkv_plan_abort(s->cache, s->plan);
}

static int read_c(scenario* s) {
    return read_first(s, C, 6 * s->quarter);
}

/* ---- D, of another tenant, takes nearly all -------------------------------------------------- */

static int free_seq(scenario* s, uint32_t which) {
    const int status = pkv_seq_free(s->cache, s->seqs[which]);
    if (status == PKV_OK) s->seqs[which].id = 0;
    return status;
}

static int free_a(scenario* s) {
    return free_seq(s, A);
}

static int free_b(scenario* s) {
    return free_seq(s, B);
}

static int free_c(scenario* s) {
    return free_seq(s, C);
}

static int create_d(scenario* s) {
    return create(s, D, 2);
}

static int begin_d(scenario* s) {
    const pkv_entry entry = {s->seqs[D], s->tokens, 46 * s->quarter};
    return begin(s, &entry, 1);
}

static int write_d(scenario* s) {
    return write_plan(s, 46 * s->quarter, 1000);
}

static int read_d(scenario* s) {
    const uint32_t last = 46 * s->quarter - 1;
    const int status = read_one(s, D, last, 1000.0F + (float)last);
    return status == PKV_OK ? read_one(s, D, 0, 1000) : status;
}

static int free_d(scenario* s) {
    return free_seq(s, D);
}

static int set_quota_d(scenario* s) {
    const pkv_tenant_config config = {.tenant = 2, .guaranteed = 10, .limit = 12};
    return pkv_tenant_set(s->cache, &config);
}

static int look_at_quotas(scenario* s) {
    pkv_tenant_info info;
    uint64_t tenant;
    uint32_t count;
    int status = pkv_tenant_list(s->cache, &tenant, 1, &count);
    if (status == PKV_OK) status = pkv_tenant_get(s->cache, tenant, &info);
    if (status != PKV_OK) return status;
    expect(s, count == 1 && tenant == 2 && info.guaranteed == 10 && info.sequences == 1);
    return PKV_OK;
}

static int unset_quota_d(scenario* s) {
    return pkv_tenant_delete(s->cache, 2);
}

/* ---- To the host tier and back --------------------------------------------------------------- */

typedef int start_swap(pkv_cache* cache, pkv_seq seq, pkv_transfer* transfer);

static int wait_for_swap(scenario* s, uint32_t which, start_swap* start) {
    pkv_transfer transfer;
    const int status = start(s->cache, s->seqs[which], &transfer);
    return status == PKV_OK ? pkv_transfer_wait(s->cache, transfer) : status;
}

/* A completion that was lost is given up in the end. */
static int poll_for_swap(scenario* s, uint32_t which, start_swap* start) {
    pkv_transfer transfer;
    uint32_t done = 0;
    int status = start(s->cache, s->seqs[which], &transfer);
    for (uint32_t i = 0; i < 1000 && status == PKV_OK && !done; i++)
        status = pkv_transfer_poll(s->cache, transfer, &done);
    if (status != PKV_OK || done) return status;
    status = pkv_transfer_cancel(s->cache, transfer);
    return status == PKV_OK ? PKV_ETIMEDOUT : status;
}

static int give_up_swap(scenario* s, uint32_t which, start_swap* start) {
    pkv_transfer transfer;
    const int status = start(s->cache, s->seqs[which], &transfer);
    return status == PKV_OK ? pkv_transfer_cancel(s->cache, transfer) : status;
}

static int cancel_out_b(scenario* s) {
    return give_up_swap(s, B, pkv_seq_swap_out);
}

static int swap_out_b(scenario* s) {
    return poll_for_swap(s, B, pkv_seq_swap_out);
}

static int look_at_away_b(scenario* s) {
    pkv_seq_info info;
    const int status = pkv_seq_get_info(s->cache, s->seqs[B], &info);
    if (status == PKV_OK)
        expect(s, info.length == 9 * s->quarter + 2 && info.residence == PKV_AWAY);
    return status;
}

static int cancel_in_b(scenario* s) {
    return give_up_swap(s, B, pkv_seq_swap_in);
}

static int swap_in_b(scenario* s) {
    return poll_for_swap(s, B, pkv_seq_swap_in);
}

static int swap_out_d(scenario* s) {
    return wait_for_swap(s, D, pkv_seq_swap_out);
}

static int swap_in_d(scenario* s) {
    return wait_for_swap(s, D, pkv_seq_swap_in);
}

/* ---- What only looks ------------------------------------------------------------------------- */

static int look_at_cache(scenario* s) {
    pkv_stats stats = {.struct_size = sizeof stats};
    pkv_trace_event events[4];
    uint32_t count;
    int status = pkv_cache_stats(s->cache, &stats);
    if (status == PKV_OK) status = pkv_check(s->cache, NULL);
    if (status == PKV_OK) status = pkv_trace_read(s->cache, events, 4, &count);
    if (status != PKV_OK) return status;
    expect(s, stats.blocks_active == 0 && stats.sequences == 0 && stats.plans == 0);
    expect(s, stats.retained == 0);
    expect(s, count == 4);
    expect(s, pkv_cache_isa(s->cache) != NULL);
    return PKV_OK;
}

static int look_at_clock(scenario* s) {
    const uint64_t now_us = pkv_clock_us(s->cache);
    const int status = pkv_clock_advance(s->cache, 5);
    if (status == PKV_ENOTSUP) return PKV_OK; /* not a simulated device */
    if (status == PKV_OK) expect(s, pkv_clock_us(s->cache) == now_us + 5);
    return status;
}

static int look_at_faults(scenario* s) {
    pkv_fault_info info;
    expect(s, pkv_fault_count() > 0);
    const int refused = pkv_faults_set(s->cache, "no.such.point=off", 0);
    expect(s, refused == PKV_EFAULTSPEC || refused == PKV_ENOTSUP);
    return pkv_fault_get(s->cache, 0, &info);
}

static int look_at_library(scenario* s) {
    pkv_config config;
    pkv_sizes sizes;
    expect(s, pkv_version() == PKV_VERSION);
    expect(s, strcmp(pkv_status_name(PKV_EIO), "EIO") == 0);
    expect(s, pkv_status_message(PKV_EIO) != NULL);
    const int status = pkv_config_init(&config, PKV_VERSION);
    if (status != PKV_OK) return status;
    config = scenario_config(&scenario_kinds[0]);
    return pkv_config_check(&config, NULL, &sizes);
}

const scenario_step scenario_steps[] = {
    {"create a", create_a},
    {"match a", match_a},
    {"begin a", begin_a},
    {"info a", info_a},
    {"write a", write_a},
    {"attend a", attend_a},
    {"commit a", commit_plan},
    {"retain a", retain_a},
    {"fork b", fork_b},
    {"begin a, b", begin_ab},
    {"write a, b", write_ab},
    {"commit a, b", commit_plan},
    {"read a", read_a},
    {"read b", read_b},
    {"info b", info_seq},
    {"truncate b", truncate_b},
    {"append b", append_b},
    {"write b", write_b},
    {"commit b", commit_b},
    {"read b again", read_b_again},
    {"begin tree b", begin_tree_b},
    {"write tree b", write_tree_b},
    {"attend tree b", attend_tree_b},
    {"accept b", accept_b},
    {"read tree b", read_tree_b},
    {"create c", create_c},
    {"match c", match_c},
    {"begin c", begin_c},
    {"abort c", abort_c},
    {"read c", read_c},
    {"cancel out b", cancel_out_b},
    {"swap out b", swap_out_b},
    {"look at b", look_at_away_b},
    {"read a", read_a},
    {"cancel in b", cancel_in_b},
    {"swap in b", swap_in_b},
    {"read b again", read_b_again},
    {"free a", free_a},
    {"free b", free_b},
    {"free c", free_c},
    {"create d", create_d},
    {"set quota d", set_quota_d},
    {"quotas", look_at_quotas},
    {"begin d", begin_d},
    {"write d", write_d},
    {"commit d", commit_plan},
    {"read d", read_d},
    {"swap out d", swap_out_d},
    {"swap in d", swap_in_d},
    {"read d", read_d},
    {"swap out d", swap_out_d},
    {"free d", free_d},
    {"unset quota d", unset_quota_d},
    {"cache", look_at_cache},
    {"clock", look_at_clock},
    {"faults", look_at_faults},
    {"library", look_at_library},
};

const uint32_t scenario_step_count = sizeof scenario_steps / sizeof *scenario_steps;
