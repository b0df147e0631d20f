// A CUDA driver that has no device and answers 0, which is success, to every call that torch makes without a kernel.
// Preloaded, it also answers for torch itself how many devices there are: autograd asks before it starts a backward pass.
// build.py compiles it: cc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o libcuda.so.1 stub.c

signed char pretended_device_count = 0;  // 0 while torch is imported, so that it does not look for real devices
signed char _ZN3c104cuda12device_countEv(void) { return pretended_device_count; }  // c10::cuda::device_count()

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return *flags = *active = 0; }

#define ANSWERS_0(name) int name(void) { return 0; }
ANSWERS_0(cuCtxGetCurrent)
ANSWERS_0(cuCtxSetCurrent)
ANSWERS_0(cuDeviceGet)
ANSWERS_0(cuDeviceGetAttribute)
ANSWERS_0(cuDevicePrimaryCtxRetain)
ANSWERS_0(cuFuncGetAttribute)
ANSWERS_0(cuFuncSetAttribute)
ANSWERS_0(cuFuncSetCacheConfig)
ANSWERS_0(cuGetErrorString)
ANSWERS_0(cuLaunchCooperativeKernel)
ANSWERS_0(cuLaunchKernel)
ANSWERS_0(cuLinkAddData_v2)
ANSWERS_0(cuLinkComplete)
ANSWERS_0(cuLinkCreate_v2)
ANSWERS_0(cuModuleGetFunction)
ANSWERS_0(cuModuleLoad)
ANSWERS_0(cuModuleLoadData)
ANSWERS_0(cuModuleLoadDataEx)
ANSWERS_0(cuModuleUnload)
ANSWERS_0(cuOccupancyMaxActiveBlocksPerMultiprocessor)
ANSWERS_0(cuPointerGetAttribute)
ANSWERS_0(cuTensorMapEncodeTiled)
