/* api_pin.c - the public functions on pins. */
#include "api/api.h"

static int create_pin(pkv_cache* cache, pkv_seq handle, uint32_t tokens, uint64_t owner,
                      uint64_t timeout_us, pkv_pin* pin) {
    struct pkvi_seq* seq;
    PKVI_TRY(pkvi_seq_find(&cache->seqs, handle, &seq));
    return pkvi_pin_create(cache, seq, tokens, owner, timeout_us, pin);
}

int pkv_pin_create(pkv_cache* cache, pkv_seq seq, uint32_t tokens, uint64_t owner,
                   uint64_t timeout_us, pkv_pin* pin) {
    if (cache == NULL) return PKV_EINVAL;
    if (pin == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    return pkvi_unlock(cache, create_pin(cache, seq, tokens, owner, timeout_us, pin));
}

int pkv_pin_release(pkv_cache* cache, pkv_pin pin) {
    if (cache == NULL) return PKV_EINVAL;
    if (pin.id == 0) return PKV_OK;
    pkvi_lock(cache);
    return pkvi_unlock(cache, pkvi_pin_release(cache, pin));
}

int pkv_pins_release(pkv_cache* cache, uint64_t owner, uint32_t* released) {
    if (cache == NULL) return PKV_EINVAL;
    pkvi_lock(cache);
    const uint32_t count = pkvi_pins_release(cache, owner);
    if (released != NULL) *released = count;
    return pkvi_unlock(cache, PKV_OK);
}
