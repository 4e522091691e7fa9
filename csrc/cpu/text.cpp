#include "text.h"

#include <cmath>

// Words, pairs of neighbouring words, and the 3- to 5-grams of characters of each "<word>" are
// hashed into signed counts. Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask
// Learning". Counts are integers, so their sum, the squared norm of their signed square roots, is
// exact. tests/test_text.py defines the same in Python.

namespace memcore {
namespace {

enum CharacterClass : uint8_t {
  kWord,       // part of a word
  kSeparator,  // ends a word
  kAlone,      // a word by itself: scripts written without spaces, and emoji
  kIgnored     // as if it were not there: "don't" is "dont"
};

struct Range {
  uint32_t first, last;
  CharacterClass kind;
};

// What is not part of a word above ASCII, in order. A table of our own: it never changes with
// Unicode.
constexpr Range kRanges[] = {
    {0x0080, 0x00A9, kSeparator}, {0x00AB, 0x00AC, kSeparator}, {0x00AD, 0x00AD, kIgnored},
    {0x00AE, 0x00B4, kSeparator}, {0x00B6, 0x00B9, kSeparator}, {0x00BB, 0x00BF, kSeparator},
    {0x00D7, 0x00D7, kSeparator}, {0x00F7, 0x00F7, kSeparator}, {0x02C2, 0x02DF, kSeparator},
    {0x037E, 0x037E, kSeparator}, {0x0387, 0x0387, kSeparator}, {0x055A, 0x055F, kSeparator},
    {0x0589, 0x058A, kSeparator}, {0x05BE, 0x05BE, kSeparator}, {0x05F3, 0x05F4, kSeparator},
    {0x060C, 0x060D, kSeparator}, {0x061B, 0x061F, kSeparator}, {0x066A, 0x066D, kSeparator},
    {0x06D4, 0x06D4, kSeparator}, {0x0964, 0x0965, kSeparator}, {0x0E3F, 0x0E3F, kSeparator},
    {0x0E4F, 0x0E4F, kSeparator}, {0x0E5A, 0x0E5B, kSeparator}, {0x1680, 0x1680, kSeparator},
    {0x2000, 0x200B, kSeparator}, {0x200C, 0x200D, kIgnored},   {0x200E, 0x2018, kSeparator},
    {0x2019, 0x2019, kIgnored},   {0x201A, 0x206F, kSeparator}, {0x20A0, 0x20CF, kSeparator},
    {0x2190, 0x25FF, kSeparator}, {0x2600, 0x27BF, kAlone},     {0x27C0, 0x2BFF, kSeparator},
    {0x2E00, 0x2E7F, kSeparator}, {0x3000, 0x3004, kSeparator}, {0x3005, 0x3007, kAlone},
    {0x3008, 0x303F, kSeparator}, {0x3040, 0x30FA, kAlone},     {0x30FB, 0x30FB, kSeparator},
    {0x30FC, 0x30FF, kAlone},     {0x3400, 0x9FFF, kAlone},     {0xD800, 0xDFFF, kSeparator},
    {0xF900, 0xFAFF, kAlone},     {0xFE00, 0xFE0F, kIgnored},   {0xFE10, 0xFE6F, kSeparator},
    {0xFEFF, 0xFEFF, kSeparator}, {0xFF00, 0xFF0F, kSeparator}, {0xFFF0, 0xFFFF, kSeparator},
    {0x1F000, 0x1FAFF, kAlone},   {0x20000, 0x3FFFF, kAlone},
};

struct AsciiClasses {
  CharacterClass of[128];
};

constexpr AsciiClasses ascii_classes() {
  AsciiClasses classes{};
  for (int c = 0; c < 128; ++c) {
    bool is_word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    classes.of[c] = is_word ? kWord : c == '\'' ? kIgnored : kSeparator;
  }
  return classes;
}

constexpr AsciiClasses kAscii = ascii_classes();

CharacterClass class_of(uint32_t c) {
  if (c < 128) return kAscii.of[c];
  int low = 0, high = sizeof(kRanges) / sizeof(kRanges[0]);
  while (low < high) {
    int middle = (low + high) / 2;
    if (kRanges[middle].last < c) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  bool inside =
      low < static_cast<int>(sizeof(kRanges) / sizeof(kRanges[0])) && kRanges[low].first <= c;
  return inside ? kRanges[low].kind : kWord;
}

// The hash of a string is `extend` over its code points, from a seed for each kind of feature.
constexpr uint64_t kGramSeed = 0x243F6A8885A308D3;
constexpr uint64_t kWordSeed = 0x13198A2E03707344;
constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15;

constexpr uint64_t extend(uint64_t hash, uint64_t next) {
  hash = (hash ^ next) * kMultiplier;
  return hash ^ (hash >> 29);
}

// English words that are in every text. They count a quarter: with that, function words no longer
// outvote names. At most 192 words, so that probing stays short.
constexpr const char* kCommonWords[] = {
    "a",      "about", "after", "all",    "also",    "am",      "an",     "and",    "any",
    "are",    "as",    "at",    "be",     "because", "been",    "before", "being",  "but",
    "by",     "can",   "cant",  "could",  "couldnt", "did",     "didnt",  "do",     "does",
    "doesnt", "doing", "done",  "dont",   "for",     "from",    "had",    "has",    "have",
    "having", "he",    "her",   "here",   "hes",     "him",     "his",    "how",    "i",
    "id",     "if",    "ill",   "im",     "in",      "into",    "is",     "isnt",   "it",
    "its",    "ive",   "just",  "lets",   "me",      "more",    "most",   "my",     "no",
    "nor",    "not",   "of",    "off",    "on",      "once",    "only",   "or",     "other",
    "our",    "out",   "over",  "own",    "same",    "she",     "shes",   "should", "so",
    "some",   "such",  "than",  "that",   "thats",   "the",     "their",  "them",   "then",
    "there",  "these", "they",  "theyre", "theyve",  "this",    "those",  "to",     "too",
    "under",  "until", "up",    "us",     "very",    "was",     "wasnt",  "we",     "were",
    "weve",   "what",  "whats", "when",   "where",   "which",   "while",  "who",    "whom",
    "why",    "will",  "with",  "wont",   "would",   "wouldnt", "you",    "your",   "youre",
    "youve",
};
constexpr int32_t kRareWeight = 4;
constexpr int32_t kCommonWeight = 1;

// Open addressing by the word's hash; 0 is an empty slot.
struct CommonWords {
  static constexpr uint64_t kSlots = 512;
  uint64_t hashes[kSlots];

  constexpr bool contains(uint64_t hash) const {
    for (uint64_t slot = hash % kSlots; hashes[slot] != 0; slot = (slot + 1) % kSlots) {
      if (hashes[slot] == hash) return true;
    }
    return false;
  }
};

constexpr CommonWords common_words() {
  CommonWords words{};
  for (const char* word : kCommonWords) {
    uint64_t hash = kWordSeed;
    for (const char* c = word; *c != 0; ++c) hash = extend(hash, static_cast<unsigned char>(*c));
    uint64_t slot = hash % CommonWords::kSlots;
    while (words.hashes[slot] != 0) slot = (slot + 1) % CommonWords::kSlots;
    words.hashes[slot] = hash;
  }
  return words;
}

constexpr CommonWords kCommon = common_words();

struct Counts {
  int32_t* of;
  uint64_t dim;

  // The upper half of the hash picks the cell, its lowest bit the sign.
  void add(uint64_t hash, int32_t weight) {
    hash = extend(hash, hash >> 32);
    uint64_t cell = ((hash >> 32) * dim) >> 32;
    of[cell] += (hash & 1) != 0 ? -weight : weight;
  }
};

// hash[n] is that of the last n characters of the word so far.
struct Grams {
  uint64_t hash[6] = {kGramSeed, 0, 0, 0, 0, 0};
  int n_seen = 0;

  void push(uint32_t c, int32_t weight, Counts& counts) {
    for (int n = 5; n > 0; --n) hash[n] = extend(hash[n - 1], c);
    ++n_seen;
    for (int n = 3; n <= 5; ++n) {
      if (n_seen >= n) counts.add(hash[n], weight);
    }
  }
};

template <typename Character>
void count_features(const Character* text, int64_t length, Counts& counts) {
  uint64_t previous_hash = 0;
  int32_t previous_weight = 0;
  int64_t i = 0;
  auto lower = [](uint32_t c) { return c - 'A' < 26u ? c + 32 : c; };
  while (true) {
    // Find the next word, and its hash.
    CharacterClass kind = kSeparator;
    while (i < length && (kind = class_of(text[i])) != kWord && kind != kAlone) ++i;
    if (i == length) return;
    int64_t begin = i;
    uint64_t word_hash = kWordSeed;
    if (kind == kAlone) {
      word_hash = extend(word_hash, text[i++]);
    } else {
      for (; i < length && ((kind = class_of(text[i])) == kWord || kind == kIgnored); ++i) {
        if (kind == kWord) word_hash = extend(word_hash, lower(text[i]));
      }
    }
    int32_t weight = kCommon.contains(word_hash) ? kCommonWeight : kRareWeight;

    // Count it, the pair that it ends, and its grams.
    counts.add(word_hash, weight);
    if (previous_weight > 0) {
      counts.add(extend(previous_hash, word_hash),
                 weight < previous_weight ? weight : previous_weight);
    }
    previous_hash = word_hash;
    previous_weight = weight;

    Grams grams;
    grams.push('<', weight, counts);
    for (int64_t j = begin; j < i; ++j) {
      if (class_of(text[j]) != kIgnored) grams.push(lower(text[j]), weight, counts);
    }
    grams.push('>', weight, counts);
  }
}

}  // namespace

void hash_text(const Text& text, int64_t dim, int32_t* counts, float* vector) {
  for (int64_t i = 0; i < dim; ++i) counts[i] = 0;
  Counts cells{counts, static_cast<uint64_t>(dim)};
  switch (text.width) {
    case 1: count_features(static_cast<const uint8_t*>(text.characters), text.length, cells); break;
    case 2:
      count_features(static_cast<const uint16_t*>(text.characters), text.length, cells);
      break;
    default: count_features(static_cast<const uint32_t*>(text.characters), text.length, cells);
  }

  int32_t total = 0;
  for (int64_t i = 0; i < dim; ++i) total += counts[i] < 0 ? -counts[i] : counts[i];
  float squared_norm = static_cast<float>(total > 0 ? total : 1);
  for (int64_t i = 0; i < dim; ++i) {
    float size =
        std::sqrt(static_cast<float>(counts[i] < 0 ? -counts[i] : counts[i]) / squared_norm);
    vector[i] = counts[i] < 0 ? -size : size;
  }
}

}  // namespace memcore
