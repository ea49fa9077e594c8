/* The one header of the C interface, where it lies in the repository. */
#include "../../../include/t2lc.h"
