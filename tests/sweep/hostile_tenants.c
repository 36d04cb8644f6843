/* hostile_tenants.c - bad calls on tenants. */
#include "sweep/hostile.h"

static int set_quota(struct world* w, uint64_t tenant, uint32_t guaranteed, uint32_t limit) {
    const pkv_tenant_config config = {.tenant = tenant, .guaranteed = guaranteed, .limit = limit};
    return pkv_tenant_set(w->cache, &config);
}

static int bad_quota(struct world* w) {
    const pkv_tenant_config good = {.tenant = OWNER, .guaranteed = 2, .limit = 8};
    switch (world_below(w, 7)) {
    case 0:
        return pkv_tenant_set(NULL, &good);
    case 1:
        return pkv_tenant_set(w->cache, NULL);
    case 2: /* the limit is below the guarantee */
        return set_quota(w, OWNER, 9, 1 + world_below(w, 8));
    case 3: /* or below what is in use */
        return set_quota(w, OWNER, 0, 1 + world_below(w, 4));
    case 4: /* others have what would be guaranteed */
        return set_quota(w, OWNER, BLOCKS - world_below(w, 2), 0);
    case 5:
        return set_quota(w, OWNER, BLOCKS + world_huge(w), 0);
    default: /* a tenant too many */
        return set_quota(w, OWNER + 1 + world_next(w) / 2, 1, 2);
    }
}

static int bad_tenant_call(struct world* w) {
    pkv_tenant_info info;
    uint64_t tenant;
    uint32_t count;
    switch (world_below(w, 8)) {
    case 0:
        return pkv_tenant_delete(NULL, OWNER);
    case 1:
        return pkv_tenant_delete(w->cache, OWNER);
    case 2:
        return pkv_tenant_delete(w->cache, OWNER + 1 + world_next(w) / 2);
    case 3:
        return pkv_tenant_get(NULL, OWNER, &info);
    case 4:
        return pkv_tenant_get(w->cache, OWNER, NULL);
    case 5:
        return pkv_tenant_list(NULL, &tenant, 1, &count);
    case 6:
        return pkv_tenant_list(w->cache, NULL, 1, &count);
    default:
        return pkv_tenant_list(w->cache, &tenant, 1, NULL);
    }
}

static int (*const calls[])(struct world* w) = {
    bad_quota,
    bad_tenant_call,
};

const hostile_kinds hostile_on_tenants = {"tenants", calls, sizeof calls / sizeof *calls};
