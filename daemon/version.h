/* version.h - the version that the program, the metrics and the API show. */
#ifndef SRV_VERSION_H
#define SRV_VERSION_H

#define SRV_VERSION "0.1.0"

#endif
