// arch.h: the architectures. Internal to common/model; everybody else goes through model.h.
#ifndef PDQ_ARCH_H
#define PDQ_ARCH_H

#include "common/model/model.h"

extern const struct arch arch_llama, arch_gpt2, arch_bert, arch_roberta, arch_distilbert, arch_bilstm, arch_lenet;

#endif
