/* api_tenant.c - quotas of tenants. */
#include "api/api.h"

int pkv_tenant_set(pkv_cache* cache, const pkv_tenant_config* config) {
    if (cache == NULL) return PKV_EINVAL;
    if (config == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_tenant_set(cache, config));
}

int pkv_tenant_delete(pkv_cache* cache, uint64_t tenant) {
    if (cache == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_tenant_delete(cache, tenant));
}

int pkv_tenant_get(pkv_cache* cache, uint64_t tenant, pkv_tenant_info* info) {
    if (cache == NULL) return PKV_EINVAL;
    if (info == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    pkvi_settle(cache);
    pkvi_tenant_info(cache, tenant, info);
    return pkvi_unlock(cache, PKV_OK);
}

int pkv_tenant_list(pkv_cache* cache, uint64_t* tenants, uint32_t capacity, uint32_t* count) {
    if (cache == NULL) return PKV_EINVAL;
    if (count == NULL) return PKV_EINVAL;
    if (tenants == NULL && capacity > 0) return PKV_EINVAL;
    pkvi_lock(cache);
    *count = pkvi_tenant_list(cache, tenants, capacity);
    return pkvi_unlock(cache, PKV_OK);
}
