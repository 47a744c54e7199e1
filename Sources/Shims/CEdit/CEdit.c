#define _GNU_SOURCE 1
#include "CEdit.h"
#include <dlfcn.h>
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

static struct {
  __typeof__(&el_init) init;
  __typeof__(&el_gets) gets;
  __typeof__(&el_set) set;
  __typeof__(&el_line) line;
  __typeof__(&el_insertstr) insert;
  __typeof__(&el_resize) resize;
  __typeof__(&el_source) source;
  __typeof__(&history_init) history_init;
  __typeof__(&history) history;
} lib;

static struct {
  EditLine *edit;
  History *history;
  void *context;
  int (*wait)(void *context);
  void (*complete)(void *context, const char *line, size_t length, size_t cursor);
  char *prompt;
  char *line;
  int interrupted;
} state;

static int find(void *library, const char *name, void *pointer) {
  void *symbol = dlsym(library, name);
  memcpy(pointer, &symbol, sizeof symbol);
  return symbol != NULL;
}

static int load(void) {
  void *library = dlopen("libedit.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!library) library = dlopen("libedit.so", RTLD_NOW | RTLD_LOCAL);
  return library && find(library, "el_init", &lib.init) && find(library, "el_gets", &lib.gets) &&
         find(library, "el_set", &lib.set) && find(library, "el_line", &lib.line) &&
         find(library, "el_insertstr", &lib.insert) && find(library, "el_resize", &lib.resize) &&
         find(library, "el_source", &lib.source) && find(library, "history_init", &lib.history_init) &&
         find(library, "history", &lib.history);
}

static char *prompt_text(EditLine *edit) {
  (void)edit;
  return state.prompt;
}

// One character of the terminal. Bytes that are no character of the locale are dropped.
static int get_character(EditLine *edit, wchar_t *character) {
  (void)edit;
  mbstate_t shift;
  memset(&shift, 0, sizeof shift);
  for (;;) {
    int answer = state.wait(state.context);
    if (answer == GOLIATH_EDIT_INTERRUPTED) {
      state.interrupted = 1;
      return -1;
    }
    if (answer == GOLIATH_EDIT_END) return 0;
    char byte;
    ssize_t count = read(STDIN_FILENO, &byte, 1);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count <= 0) return 0;
    size_t length = mbrtowc(character, &byte, 1, &shift);
    if (length == (size_t)-1) {
      memset(&shift, 0, sizeof shift);
      continue;
    }
    if (length != (size_t)-2) return 1;
  }
}

static unsigned char complete_word(EditLine *edit, int key) {
  (void)key;
  const LineInfo *info = lib.line(edit);
  size_t length = (size_t)(info->lastchar - info->buffer);
  // A copy: inserting moves the buffer.
  char *copy = strndup(info->buffer, length);
  if (!copy) return CC_ERROR;
  state.complete(state.context, copy, length, (size_t)(info->cursor - info->buffer));
  free(copy);
  return CC_REFRESH;
}

int goliath_edit_open(const char *program, void *context, int (*wait)(void *context),
                      void (*complete)(void *context, const char *line, size_t length, size_t cursor)) {
  if (state.edit) return -ENODEV;
  if (!load()) return -ENOENT;
  setlocale(LC_CTYPE, "");
  if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0) setlocale(LC_CTYPE, "C.UTF-8");
  state.context = context;
  state.wait = wait;
  state.complete = complete;
  state.prompt = strdup("");
  state.edit = lib.init(program, stdin, stdout, stderr);
  if (!state.edit) return -ENODEV;
  state.history = lib.history_init();
  HistEvent event;
  if (state.history) {
    lib.history(state.history, &event, H_SETSIZE, 1000);
    lib.history(state.history, &event, H_SETUNIQUE, 1);
    lib.set(state.edit, EL_HIST, lib.history, state.history);
  }
  lib.set(state.edit, EL_EDITOR, "emacs");
  lib.set(state.edit, EL_SIGNAL, 0);
  lib.set(state.edit, EL_PROMPT_ESC, prompt_text, '\001');
  lib.set(state.edit, EL_GETCFN, get_character);
  lib.set(state.edit, EL_ADDFN, "goliath-complete", "completes the word", complete_word);
  lib.set(state.edit, EL_BIND, "^I", "goliath-complete", NULL);
  lib.set(state.edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
  lib.set(state.edit, EL_BIND, "^W", "ed-delete-prev-word", NULL);
  lib.set(state.edit, EL_BIND, "\\e[3~", "ed-delete-next-char", NULL);
  lib.set(state.edit, EL_BIND, "\\e[1;5C", "em-next-word", NULL);
  lib.set(state.edit, EL_BIND, "\\e[1;5D", "ed-prev-word", NULL);
  lib.source(state.edit, NULL);
  return 0;
}

const char *goliath_edit_line(const char *prompt, int *interrupted) {
  char *copy = strdup(prompt);
  if (!copy) return NULL;
  free(state.prompt);
  state.prompt = copy;
  state.interrupted = 0;
  int count = 0;
  const char *line = lib.gets(state.edit, &count);
  *interrupted = state.interrupted;
  if (!line || count <= 0 || state.interrupted) return NULL;
  free(state.line);
  state.line = strndup(line, (size_t)count);
  if (state.line) state.line[strcspn(state.line, "\r\n")] = 0;
  return state.line;
}

void goliath_edit_insert(const char *text) { lib.insert(state.edit, text); }

// How many columns `length` bytes take. With `prompt`: \001 stands around bytes that take none.
static size_t width(const char *text, size_t length, int prompt) {
  size_t columns = 0;
  int hidden = 0;
  mbstate_t shift;
  memset(&shift, 0, sizeof shift);
  while (length > 0) {
    wchar_t character;
    size_t count = mbrtowc(&character, text, length, &shift);
    if (count == 0 || count > length) {
      memset(&shift, 0, sizeof shift);
      count = 1;
      columns += 1;
    } else if (prompt && character == 1) {
      hidden = !hidden;
    } else if (!hidden) {
      int cells = wcwidth(character);
      columns += cells >= 0 ? (size_t)cells : 2;
    }
    text += count;
    length -= count;
  }
  return columns;
}

void goliath_edit_hide(void) {
  const LineInfo *info = lib.line(state.edit);
  size_t columns = width(state.prompt, strlen(state.prompt), 1) +
                   width(info->buffer, (size_t)(info->cursor - info->buffer), 0);
  struct winsize size = {0};
  ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
  size_t rows = size.ws_col ? columns / size.ws_col : 0;
  fputs("\r", stdout);
  if (rows) fprintf(stdout, "\033[%zuA", rows);
  fputs("\033[J", stdout);
  fflush(stdout);
}

void goliath_edit_show(void) {
  fflush(stdout);
  lib.set(state.edit, EL_REFRESH);
}

void goliath_edit_resize(void) { lib.resize(state.edit); }

void goliath_edit_history_size(int count) {
  HistEvent event;
  if (state.history) lib.history(state.history, &event, H_SETSIZE, count);
}

void goliath_edit_remember(const char *line) {
  HistEvent event;
  if (state.history) lib.history(state.history, &event, H_ENTER, line);
}
