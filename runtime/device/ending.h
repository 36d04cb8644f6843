/* ending.h - how a copy ends that a fault point has told to misbehave, for devices whose copies all work:
 * it is made as ever, and then said to have ended as it was told. */
#ifndef PKVI_DEVICE_ENDING_H
#define PKVI_DEVICE_ENDING_H

#include "base/fault.h"
#include "base/status.h"

/* The status that it ends with. */
static inline int pkvi_ending_status(struct pkvi_fault fault) {
    switch (fault.action) {
    case PKVI_ACT_RETURN:
        return fault.status;
    case PKVI_ACT_DROP:
        return PKV_ETIMEDOUT;
    case PKVI_ACT_CORRUPT:
        return fault.argument > 0 ? PKV_EIO : PKV_OK;
    default:
        return PKV_OK;
    }
}

/* Are bits to be wrong in what arrives? Which, and how, is up to the device. */
static inline bool pkvi_ending_is_damage(struct pkvi_fault fault) {
    return fault.action == PKVI_ACT_CORRUPT && fault.argument > 0;
}

#endif
