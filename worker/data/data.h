/* Data sets: lists, decoding, resizing, views. One include for all of the folder:
 *   dataset.h  samples by number, their labels and digests
 *   decode.h   picture files to RGB and back
 *   resize.h   antialiased, in integers
 *   view.h     augmented versions, preprocessing
 *   sampler.h  the order of an epoch
 *   balance.h  which pseudo-labelled pictures are trained on
 *   flowers.h  pictures drawn by our own code */
#ifndef KD_DATA_H
#define KD_DATA_H

#include "data/balance.h"
#include "data/dataset.h"
#include "data/decode.h"
#include "data/flowers.h"
#include "data/resize.h"
#include "data/sampler.h"
#include "data/view.h"

#endif
