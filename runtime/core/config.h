/* config.h - from what the application wrote to what the cache works with. */
#ifndef PKVI_CORE_CONFIG_H
#define PKVI_CORE_CONFIG_H

#include "device/device.h"

/* Fill in every default, check every field and every size.
 * resolved, layout, sizes   written on success.
 * why                       written on error: a static sentence that names the field. */
int pkvi_config_resolve(const pkv_config* config, pkv_config* resolved, struct pkvi_layout* layout,
                        pkv_sizes* sizes, const char** why);

/* Numbers that blocks can have: those of every extent that a pool may get. */
uint32_t pkvi_config_block_numbers(const pkv_config* resolved, const pkv_sizes* sizes);

/* Pages of the longest sequence. */
uint32_t pkvi_config_pages_max(const pkv_config* resolved);

/* Blocks of the largest transfer. */
uint32_t pkvi_config_transfer_pairs_max(const pkv_config* resolved);

#endif
