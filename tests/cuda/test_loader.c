/* test_loader.c - why there is no CUDA device: each reason has its sentence, and nothing else of the
 * library minds. */
#include "unit.h"

#include "emulator/system.h"

static void use(const char* library) {
    setenv("PKV_CUDA_LIBRARY", library, 1);
}

static pkv_config cuda_config(void) {
    pkv_config config;
    ASSERT_OK(pkv_config_init(&config, PKV_VERSION));
    config.device = "cuda";
    config.groups[0] = (pkv_group_config){
        .layers = 1, .kv_heads = 1, .key_dim = 64, .k_dtype = PKV_F16, .v_dtype = PKV_F16};
    config.blocks = 4;
    config.sequences_max = 4;
    return config;
}

/* The device is absent, for a reason whose sentence has `words` in it; and caches say the same. */
static void expect_absent(const char* words) {
    const char* reason = pkv_device_absent("cuda");
    ASSERT(reason != NULL);
    ASSERT(strncmp(reason, "device: ", 8) == 0);
    ASSERT(strstr(reason, words) != NULL);
    const pkv_config config = cuda_config();
    const char* why = NULL;
    pkv_cache* cache;
    ASSERT_STATUS(pkv_config_check(&config, &why, NULL), PKV_ENOTSUP);
    ASSERT_STR(why, reason);
    ASSERT_STATUS(pkv_cache_create(&config, &cache), PKV_ENOTSUP);
    ASSERT_PTR(pkv_device_absent("cpu"), NULL);
}

TEST(the_device_is_there) {
    use(EMULATED_LIBRARY);
    ASSERT_PTR(pkv_device_absent("cuda"), NULL);
    const pkv_config config = cuda_config();
    pkv_cache* cache;
    ASSERT_OK(pkv_cache_create(&config, &cache));
    ASSERT_STR(pkv_cache_isa(cache), "sm_90");
    pkv_cache_destroy(cache);
}

TEST(no_library) {
    unsetenv("PKV_CUDA_LIBRARY"); /* and none lies beside this program */
    expect_absent("neither beside libpagedkv");
    use("");
    expect_absent("neither beside libpagedkv");
    use("/nowhere/libpagedkv_cuda.so");
    expect_absent("nor where $PKV_CUDA_LIBRARY says");
    char path[5000];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    use(path);
    expect_absent("nor where $PKV_CUDA_LIBRARY says");
}

TEST(a_file_that_is_no_library) {
    use("/proc/self/exe"); /* a program, not a library */
    expect_absent("cannot be loaded");
}

TEST(another_version) {
    use(WRONG_VERSION_LIBRARY);
    expect_absent("another version");
}

TEST(no_driver) {
    use(EMULATED_LIBRARY);
    emulator_set_absent("device: there is no NVIDIA driver");
    expect_absent("no NVIDIA driver");
    emulator_set_absent(NULL);
    ASSERT_PTR(pkv_device_absent("cuda"), NULL);
}

/* The real one, where it was built: it loads, and has a device or a reason. */
TEST(the_library_that_was_built) {
#ifdef CUDA_LIBRARY
    use(CUDA_LIBRARY);
    const char* reason = pkv_device_absent("cuda");
    if (reason == NULL) return;
    ASSERT(strstr(reason, "NVIDIA") != NULL);
    expect_absent("NVIDIA");
#else
    SKIP("libpagedkv_cuda was not built");
#endif
}

TEST(names_of_devices) {
    ASSERT_PTR(pkv_device_absent(NULL), NULL);
    ASSERT_PTR(pkv_device_absent("sim"), NULL);
    ASSERT(strstr(pkv_device_absent("tpu"), "none of that name") != NULL);
    ASSERT(pkv_device_absent("") != NULL);
}
