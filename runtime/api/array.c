/* array.c - checks of arrays that callers pass. */
#include "api/api.h"

/* Do all elements lie within what a pointer difference can express? */
static bool extent_fits(const pkv_array* array, uint32_t rows, uint32_t heads, uint32_t dim) {
    uint64_t row_part;
    uint64_t head_part;
    uint64_t elements;
    uint64_t bytes;
    if (!pkvi_mul(rows - 1, array->row_stride, &row_part)) return false;
    if (!pkvi_mul(heads - 1, array->head_stride, &head_part)) return false;
    if (!pkvi_add(row_part, head_part, &elements)) return false;
    if (!pkvi_add(elements, dim, &elements)) return false;
    if (!pkvi_mul(elements, pkvi_dtype_bytes(array->dtype), &bytes)) return false;
    return bytes <= PTRDIFF_MAX;
}

/* Row-major or head-major without overlap. */
static bool elements_are_distinct(const pkv_array* array, uint32_t rows, uint32_t heads,
                                  uint32_t dim) {
    const uint64_t row = array->row_stride;
    const uint64_t head = array->head_stride;
    const bool heads_within_row = head >= dim && row >= (heads - 1) * head + dim;
    const bool rows_within_head = row >= dim && head >= (rows - 1) * row + dim;
    return heads_within_row || rows_within_head;
}

int pkvi_array_resolve(const pkv_array* array, uint32_t rows, uint32_t heads, uint32_t dim,
                       bool is_written, pkv_array* resolved) {
    if (array->data == NULL) return PKV_EINVAL;
    if (array->dtype > PKV_BF16) return PKV_EINVAL;
    if ((uintptr_t)array->data % pkvi_dtype_bytes(array->dtype) != 0) return PKV_EINVAL;
    pkv_array result = *array;
    if (result.head_stride == 0) result.head_stride = dim;
    if (result.row_stride == 0) {
        if (!pkvi_mul(heads, result.head_stride, &result.row_stride)) return PKV_EINVAL;
    }
    if (!extent_fits(&result, rows, heads, dim)) return PKV_EINVAL;
    if (is_written && !elements_are_distinct(&result, rows, heads, dim)) return PKV_EINVAL;
    *resolved = result;
    return PKV_OK;
}
