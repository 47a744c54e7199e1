// libedit, the BSD line editor, for one terminal: the calls with variable arguments, and the library found at run time, so
// that a program which never edits a line does not load it.
#pragma once
#include <stddef.h>

/// What `wait` answers.
#define GOLIATH_EDIT_READY 1
#define GOLIATH_EDIT_END 0
#define GOLIATH_EDIT_INTERRUPTED (-1)

/// Begins to edit lines of standard input on standard output. `wait` is called whenever a key is needed; `complete` when
/// Tab was pressed, with the line and the cursor's place in it (bytes). Both get `context`. Once per process.
/// 0, or -ENOENT when the library is not installed, or -ENODEV when it does not take the terminal.
int goliath_edit_open(const char *program, void *context, int (*wait)(void *context),
                      void (*complete)(void *context, const char *line, size_t length, size_t cursor));

/// Edits one line after `prompt`, in which \001 stands around bytes that take no room on the screen. The line without its end,
/// valid until the next call; NULL at the end of the input or when `wait` interrupted (*interrupted: 1).
const char *goliath_edit_line(const char *prompt, int *interrupted);

/// Inserts text at the cursor. Only within `complete`.
void goliath_edit_insert(const char *text);

/// Removes prompt and line from the screen, and draws them again. Only within `wait` and `complete`; nothing else.
void goliath_edit_hide(void);
void goliath_edit_show(void);

/// Takes the terminal's new size.
void goliath_edit_resize(void);

/// Keeps at most `count` lines for the history keys.
void goliath_edit_history_size(int count);

/// Adds a line to the history keys.
void goliath_edit_remember(const char *line);
