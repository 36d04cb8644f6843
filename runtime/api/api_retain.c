/* api_retain.c - the public function by which cached blocks stay longer, or go sooner. */
#include "api/api.h"

static uint64_t time_of(uint64_t us) {
    return us > 0 ? us : PKVI_NEVER;
}

static int retain(pkv_cache* cache, pkv_seq handle, uint32_t begin, uint32_t end,
                  const pkv_retention* retention, uint32_t* retained) {
    struct pkvi_terms terms;
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    if (retention == NULL) return pkvi_seq_retain(cache, seq, begin, end, NULL, retained);
    terms = (struct pkvi_terms){retention->priority, time_of(retention->duration_us),
                                time_of(retention->ttl_us)};
    return pkvi_seq_retain(cache, seq, begin, end, &terms, retained);
}

int pkv_seq_retain(pkv_cache* cache, pkv_seq seq, uint32_t begin, uint32_t end,
                   const pkv_retention* retention, uint32_t* retained) {
    uint32_t ignored;
    if (cache == NULL) return PKV_EINVAL;
    if (retention != NULL && retention->priority > PKV_PRIORITY_HIGHEST) return PKV_EINVAL;
    if (retained == NULL) retained = &ignored;
    pkvi_lock(cache);
    return pkvi_unlock(cache, retain(cache, seq, begin, end, retention, retained));
}
