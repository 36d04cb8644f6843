/* cuda_loader.c - finds libpagedkv_cuda.so when somebody asks for the CUDA device.
 *
 * Why     Programs that use the CPU carry no CUDA code and need none to start.
 * Where   $PKV_CUDA_LIBRARY names the file; without it, the file lies beside the one that this code
 *         is in (libpagedkv, or the program that links it statically). A search path is not used: a
 *         library of that name from elsewhere would be of another version.
 * State   none. The system counts how often a library is loaded and gives back the one that it has;
 *         it is never unloaded, since its devices and the driver's threads may outlive any cache.
 *         */
#include "device/cuda/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char file_name[] = "libpagedkv_cuda.so";

/* Write the path of the library; false when it is longer than paths can be. */
static bool find_path(char path[PATH_MAX]) {
    const char* asked = secure_getenv("PKV_CUDA_LIBRARY");
    if (asked != NULL && asked[0] != '\0') return snprintf(path, PATH_MAX, "%s", asked) < PATH_MAX;
    Dl_info info;
    if (dladdr(file_name, &info) == 0) return false;
    const char* slash = strrchr(info.dli_fname, '/');
    const int folder_length = slash != NULL ? (int)(slash - info.dli_fname) + 1 : 0;
    const char* here = folder_length > 0 ? "" : "./";
    return snprintf(path, PATH_MAX, "%s%.*s%s", here, folder_length, info.dli_fname, file_name) <
           PATH_MAX;
}

static bool stamp_fits(const struct pkvi_plugin_stamp* stamp) {
    static const struct pkvi_plugin_stamp own = PKVI_PLUGIN_STAMP;
    return memcmp(stamp, &own, sizeof own) == 0;
}

/* Load the library, or say why that is impossible. */
static const char* load(const struct pkvi_plugin** plugin) {
    char path[PATH_MAX];
    if (!find_path(path) || access(path, R_OK) != 0)
        return "device: libpagedkv_cuda.so lies neither beside libpagedkv nor where "
               "$PKV_CUDA_LIBRARY says";
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == NULL)
        return "device: libpagedkv_cuda.so cannot be loaded: it is damaged, made for another "
               "machine, or needs a library that is missing";
    const struct pkvi_plugin* found = dlsym(library, PKVI_PLUGIN_SYMBOL);
    if (found == NULL || !stamp_fits(&found->stamp))
        return "device: libpagedkv_cuda.so is of another version than libpagedkv";
    *plugin = found;
    return NULL;
}

const char* pkvi_cuda_absent(void) {
    const struct pkvi_plugin* plugin;
    const char* why = load(&plugin);
    return why != NULL ? why : plugin->absent();
}

int pkvi_cuda_check(const pkv_config* config, const char** why) {
    const struct pkvi_plugin* plugin;
    const char* absence = load(&plugin);
    if (absence == NULL) absence = plugin->absent();
    if (absence == NULL) return plugin->check(config, why);
    *why = absence;
    return PKV_ENOTSUP;
}

int pkvi_cuda_open(const struct pkvi_device_config* config, struct pkvi_device** device) {
    const struct pkvi_plugin* plugin;
    return load(&plugin) == NULL ? plugin->open(config, device) : PKV_ENOTSUP;
}
