package org.palmtop.core.text;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.text.TemplateLexer.Token;
import org.palmtop.core.text.TemplateLexer.Type;

/**
 * A bundle's chat template, rendered as Python's {@code apply_chat_template} does.
 *
 * <p>Supports the part of Jinja that chat templates use: output, if, for, set, text operations. A template with
 * anything else is refused when the bundle is opened, never rendered differently.
 */
public final class ChatTemplate {
    private static final String PROBE = "palmtop probe";
    private static final int NORMAL = 0;
    private static final int CONTINUE = 1;
    private static final int BREAK = 2;

    private final Node body;
    private final String literalText;

    /** A statement, or a list of them; returns how a loop continues. */
    private abstract static class Node {
        abstract int render(Map<String, Object> names, StringBuilder out);
    }

    public ChatTemplate(String source) {
        List<String> texts = new ArrayList<String>();
        TemplateParser parser = new TemplateParser(TemplateLexer.read(source));
        body = block(parser, texts);
        if (!parser.isAtEnd()) {
            throw broken(parser.peek().line, "Encountered unknown tag '" + parser.peek().text + "'");
        }
        texts.addAll(parser.literals);
        StringBuilder joined = new StringBuilder();
        for (String text : texts) {
            joined.append(joined.length() > 0 ? "\0" : "").append(text);
        }
        literalText = joined.toString();
    }

    /** The prompt as text; {@code names} are special tokens such as {@code eos_token}. */
    public String render(List<Map<String, Object>> messages, boolean addGenerationPrompt, Map<String, String> names) {
        Map<String, Object> scope = new HashMap<String, Object>(names);
        scope.put("messages", messages);
        scope.put("tools", null);
        scope.put("documents", null);
        scope.put("add_generation_prompt", addGenerationPrompt);
        StringBuilder out = new StringBuilder();
        try {
            body.render(scope, out);
        } catch (TemplateValues.ValueException error) {
            throw PalmtopException.input(
                    "chat_template.jinja: the template refuses these messages: " + error.getMessage());
        }
        return out.toString();
    }

    /** Everything the template itself may write, joined by NUL. */
    public String literalText() {
        return literalText;
    }

    /** Whether a message's content may be a string; else it must be a list of parts. */
    public boolean takesText() {
        Map<String, Object> message = new LinkedHashMap<String, Object>();
        message.put("role", "user");
        message.put("content", PROBE);
        try {
            return render(Collections.singletonList(message), true, Collections.<String, String>emptyMap())
                    .contains(PROBE);
        } catch (PalmtopException error) {
            return false;
        }
    }

    /** Whether an assistant's content may be null; else the template gets an empty text in its place. */
    boolean takesNull() {
        List<Map<String, Object>> messages = new ArrayList<Map<String, Object>>();
        for (String role : new String[] {"user", "assistant"}) {
            Map<String, Object> message = new LinkedHashMap<String, Object>();
            message.put("role", role);
            message.put("content", role.equals("user") ? PROBE : null);
            messages.add(message);
        }
        try {
            return !render(messages, true, Collections.<String, String>emptyMap()).contains("None");
        } catch (PalmtopException error) {
            return false;
        }
    }

    static PalmtopException broken(int line, String message) {
        return PalmtopException.bundle("chat_template.jinja: line " + line + ": " + message);
    }

    /** The template may be right, but this reader is not Jinja. */
    static PalmtopException cannot(int line, String what) {
        return PalmtopException.bundle("chat_template.jinja: " + (line > 0 ? "line " + line + ": " : "") + "uses " + what
                + ", which the phone cannot reproduce; run this bundle on a computer");
    }

    /** Statements up to a tag that is not an opening one; that tag's name comes next then. */
    private static Node block(TemplateParser parser, List<String> texts) {
        final List<Node> nodes = new ArrayList<Node>();
        while (!parser.isAtEnd()) {
            Token token = parser.take();
            if (token.type == Type.DATA) {
                texts.add(token.text);
                nodes.add(output(TemplateExpression.constant(token.text)));
            } else if (token.type == Type.VARIABLE) {
                nodes.add(output(parser.expression()));
                parser.end();
            } else {
                String name = parser.peek().text;
                if (name.equals("elif") || name.equals("else") || name.startsWith("end")) {
                    break;
                }
                nodes.add(statement(parser, texts));
            }
        }
        return new Node() {
            @Override
            int render(Map<String, Object> names, StringBuilder out) {
                for (Node node : nodes) {
                    int how = node.render(names, out);
                    if (how != NORMAL) {
                        return how;
                    }
                }
                return NORMAL;
            }
        };
    }

    private static Node output(final TemplateExpression expression) {
        return new Node() {
            @Override
            int render(Map<String, Object> names, StringBuilder out) {
                out.append(TemplateValues.show(expression.value(names)));
                return NORMAL;
            }
        };
    }

    private static Node statement(TemplateParser parser, List<String> texts) {
        Token name = parser.take();
        switch (name.text) {
            case "if":
                return condition(parser, texts);
            case "for":
                return loop(parser, texts);
            case "set":
                return assignment(parser);
            case "generation":
                parser.end();
                Node inner = block(parser, texts);
                close(parser, "endgeneration");
                return inner;
            case "continue":
            case "break":
                parser.end();
                final int how = name.text.equals("break") ? BREAK : CONTINUE;
                return new Node() {
                    @Override
                    int render(Map<String, Object> names, StringBuilder out) {
                        return how;
                    }
                };
            default:
                throw cannot(name.line, "the tag " + name.text);
        }
    }

    private static Node condition(TemplateParser parser, List<String> texts) {
        final TemplateExpression condition = parser.expression();
        parser.end();
        final Node yes = block(parser, texts);
        final Node no;
        if (parser.accept(Type.NAME, "elif")) {
            no = condition(parser, texts); // it closes the whole
        } else {
            if (parser.accept(Type.NAME, "else")) {
                parser.end();
                no = block(parser, texts);
            } else {
                no = output(TemplateExpression.constant(""));
            }
            close(parser, "endif");
        }
        return new Node() {
            @Override
            int render(Map<String, Object> names, StringBuilder out) {
                return (TemplateValues.isTrue(condition.value(names)) ? yes : no).render(names, out);
            }
        };
    }

    private static Node loop(TemplateParser parser, List<String> texts) {
        final String target = parser.take().text;
        parser.expect(Type.NAME, "in");
        final TemplateExpression items = parser.unconditional();
        parser.end();
        final Node inner = block(parser, texts);
        close(parser, "endfor");
        return new Node() {
            @Override
            int render(Map<String, Object> names, StringBuilder out) {
                Object found = items.value(names);
                if (found == TemplateValues.UNDEFINED) {
                    return NORMAL;
                }
                if (!(found instanceof List)) {
                    throw new TemplateValues.ValueException("found no list to go through");
                }
                List<?> list = (List<?>) found;
                for (int i = 0; i < list.size(); i++) {
                    Map<String, Object> scope = new HashMap<String, Object>(names); // what is set inside stays inside
                    scope.put(target, list.get(i));
                    scope.put("loop", position(i, list.size()));
                    if (inner.render(scope, out) == BREAK) {
                        break;
                    }
                }
                return NORMAL;
            }
        };
    }

    private static Map<String, Object> position(int index, int length) {
        Map<String, Object> loop = new HashMap<String, Object>();
        loop.put("index0", (long) index);
        loop.put("index", index + 1L);
        loop.put("first", index == 0);
        loop.put("last", index == length - 1);
        loop.put("length", (long) length);
        return loop;
    }

    private static Node assignment(TemplateParser parser) {
        final String target = parser.take().text;
        if (!parser.accept(Type.OPERATOR, "=")) {
            throw cannot(parser.peek().line, "a set tag that is not 'name = value'");
        }
        final TemplateExpression expression = parser.expression();
        parser.end();
        return new Node() {
            @Override
            int render(Map<String, Object> names, StringBuilder out) {
                names.put(target, expression.value(names));
                return NORMAL;
            }
        };
    }

    private static void close(TemplateParser parser, String name) {
        parser.expect(Type.NAME, name);
        parser.end();
    }
}
