/* tenant.h - the verbs behind pkv_tenant_*: quotas are given, changed, taken away and looked at.
 *
 * The books are in quota.h and reservations keep to them; here is what changes the rules. A change
 * that those books do not fit is refused as a whole. */
#ifndef PKVI_CORE_TENANT_H
#define PKVI_CORE_TENANT_H

#include "core/quota.h"

int pkvi_tenant_set(pkv_cache* cache, const pkv_tenant_config* config);
int pkvi_tenant_delete(pkv_cache* cache, uint64_t tenant);
void pkvi_tenant_info(pkv_cache* cache, uint64_t tenant, pkv_tenant_info* info);

/* Returns how many there are. */
uint32_t pkvi_tenant_list(const pkv_cache* cache, uint64_t* tenants, uint32_t capacity);

#endif
