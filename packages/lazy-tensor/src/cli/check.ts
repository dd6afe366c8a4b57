import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import type TypeScript from "typescript";

type Ts = typeof TypeScript;

/** A check that cannot be made, in one line. */
export class CheckError extends Error {}

/** A place where a tensor is used as if it had a value already. */
export interface Finding {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly column: number;
  readonly message: string;
}

/** The TypeScript compiler: the user's, or the one beside this package. Throws CheckError. */
export function loadTypeScript(folders: readonly string[] = [process.cwd(), import.meta.dirname]): Ts {
  for (const folder of folders) {
    try {
      return createRequire(join(folder, "package.json"))("typescript") as Ts;
    } catch {
      // The next folder's.
    }
  }
  throw new CheckError(
    "`lazuli check` reads types with the TypeScript compiler, which is not installed: npm install --save-dev typescript",
  );
}

/**
 * Where the files use a tensor as a truth value or a number, or iterate it: none of which a tensor can be before it is
 * computed, and the first of which JavaScript answers with `true`. Throws CheckError for a file that is not there.
 */
export function checkFiles(ts: Ts, files: readonly string[]): Finding[] {
  const paths = files.map((file) => resolve(file));
  for (const [i, path] of paths.entries())
    if (!existsSync(path)) throw new CheckError(`${files[i]}: there is no such file`);
  const program = ts.createProgram(paths, optionsFor(ts, paths[0]));
  return paths.flatMap((path) => {
    const source = program.getSourceFile(path);
    return source ? new Checker(ts, program.getTypeChecker(), source).findings() : [];
  });
}

/** The compiler options of the project that the file is in; strict ones where it is in none. */
function optionsFor(ts: Ts, path: string): TypeScript.CompilerOptions {
  const config = ts.findConfigFile(dirname(path), ts.sys.fileExists);
  const own = config
    ? ts.parseJsonConfigFileContent(
        ts.readConfigFile(config, ts.sys.readFile).config,
        ts.sys,
        dirname(config),
      ).options
    : {
        module: ts.ModuleKind.NodeNext,
        moduleResolution: ts.ModuleResolutionKind.NodeNext,
        target: ts.ScriptTarget.ES2022,
      };
  return { ...own, strict: true, allowJs: true, noEmit: true, skipLibCheck: true };
}

const truthHint = "it is true whatever its values: choose with where(…), or read it with `await t.item()`";
const numberHint = "it has no value yet: use its methods (gt, add, neg, …), or read it with `await t.item()`";
const iterationHint = "its values are not there yet: use split(), chunk() or at()";

class Checker {
  private readonly found: Finding[] = [];

  constructor(
    private readonly ts: Ts,
    private readonly types: TypeScript.TypeChecker,
    private readonly source: TypeScript.SourceFile,
  ) {}

  findings(): Finding[] {
    this.visit(this.source);
    return this.found;
  }

  private visit(node: TypeScript.Node): void {
    const { ts } = this;
    if (ts.isIfStatement(node) || ts.isWhileStatement(node) || ts.isDoStatement(node))
      this.condition(node.expression);
    else if (ts.isForStatement(node) && node.condition) this.condition(node.condition);
    else if (ts.isConditionalExpression(node)) this.condition(node.condition);
    else if (ts.isPrefixUnaryExpression(node)) this.prefix(node);
    else if (ts.isBinaryExpression(node)) this.binary(node);
    else if (ts.isCallExpression(node)) this.conversion(node);
    else if (ts.isForOfStatement(node)) this.iteration(node.expression);
    else if (ts.isSpreadElement(node)) this.iteration(node.expression);
    ts.forEachChild(node, (child) => this.visit(child));
  }

  /** An expression whose truth decides. What `&&`, `||` and `!` make of it is looked at where they are visited. */
  private condition(expression: TypeScript.Expression): void {
    const { ts } = this;
    if (ts.isParenthesizedExpression(expression)) this.condition(expression.expression);
    else if (ts.isBinaryExpression(expression) && this.isLogical(expression))
      this.condition(expression.right);
    else if (this.isAlwaysTensor(expression)) this.report(expression, `a tensor decides here: ${truthHint}`);
  }

  private isLogical({ operatorToken: { kind } }: TypeScript.BinaryExpression): boolean {
    const { SyntaxKind } = this.ts;
    return kind === SyntaxKind.AmpersandAmpersandToken || kind === SyntaxKind.BarBarToken;
  }

  private prefix({ operator, operand }: TypeScript.PrefixUnaryExpression): void {
    const { SyntaxKind } = this.ts;
    if (operator === SyntaxKind.ExclamationToken) this.condition(operand);
    else if (this.mayBeTensor(operand)) this.report(operand, `a tensor is used as a number: ${numberHint}`);
  }

  private binary(node: TypeScript.BinaryExpression): void {
    if (this.isLogical(node)) this.condition(node.left);
    else if (this.isArithmetic(node.operatorToken.kind)) {
      const operand = [node.left, node.right].find((side) => this.mayBeTensor(side));
      if (operand) this.report(operand, `a tensor meets \`${node.operatorToken.getText()}\`: ${numberHint}`);
    } else if (this.isEquality(node.operatorToken.kind)) this.equality(node);
  }

  private isArithmetic(kind: TypeScript.SyntaxKind): boolean {
    const { SyntaxKind } = this.ts;
    return [
      SyntaxKind.LessThanToken,
      SyntaxKind.LessThanEqualsToken,
      SyntaxKind.GreaterThanToken,
      SyntaxKind.GreaterThanEqualsToken,
      SyntaxKind.PlusToken,
      SyntaxKind.MinusToken,
      SyntaxKind.AsteriskToken,
      SyntaxKind.AsteriskAsteriskToken,
      SyntaxKind.SlashToken,
      SyntaxKind.PercentToken,
      SyntaxKind.PlusEqualsToken,
      SyntaxKind.MinusEqualsToken,
      SyntaxKind.AsteriskEqualsToken,
      SyntaxKind.SlashEqualsToken,
    ].includes(kind);
  }

  private isEquality(kind: TypeScript.SyntaxKind): boolean {
    const { SyntaxKind } = this.ts;
    return [
      SyntaxKind.EqualsEqualsToken,
      SyntaxKind.ExclamationEqualsToken,
      SyntaxKind.EqualsEqualsEqualsToken,
      SyntaxKind.ExclamationEqualsEqualsToken,
    ].includes(kind);
  }

  /** Tensors compared with one another are asked whether they are the same object, with null whether they are there. */
  private equality({ left, right, operatorToken }: TypeScript.BinaryExpression): void {
    const { TypeFlags } = this.ts;
    const primitive =
      TypeFlags.NumberLike | TypeFlags.BooleanLike | TypeFlags.StringLike | TypeFlags.BigIntLike;
    for (const [one, other] of [
      [left, right],
      [right, left],
    ])
      if (this.mayBeTensor(one) && this.types.getTypeAtLocation(other).flags & primitive)
        this.report(one, `a tensor meets \`${operatorToken.getText()}\`: ${numberHint}`);
  }

  private conversion({ expression, arguments: args }: TypeScript.CallExpression): void {
    if (!this.ts.isIdentifier(expression) || args.length === 0) return;
    if (expression.text === "Boolean") this.condition(args[0]);
    else if (expression.text === "Number" && this.mayBeTensor(args[0]))
      this.report(args[0], `a tensor is used as a number: ${numberHint}`);
  }

  private iteration(expression: TypeScript.Expression): void {
    if (this.mayBeTensor(expression)) this.report(expression, `a tensor is iterated: ${iterationHint}`);
  }

  /** Whether the expression is a tensor for sure: one that may be null or false is asked whether it is there. */
  private isAlwaysTensor(expression: TypeScript.Expression): boolean {
    const parts = this.partsOf(expression);
    return parts.length > 0 && parts.every((type) => this.isTensor(type));
  }

  private mayBeTensor(expression: TypeScript.Expression): boolean {
    return this.partsOf(expression).some((type) => this.isTensor(type));
  }

  private partsOf(expression: TypeScript.Expression): readonly TypeScript.Type[] {
    const type = this.types.getTypeAtLocation(expression);
    const constraint = this.types.getBaseConstraintOfType(type) ?? type;
    return constraint.isUnion() ? constraint.types : [constraint];
  }

  /** Lazuli's Tensor, or a class that extends it. */
  private isTensor(type: TypeScript.Type): boolean {
    if (type.symbol?.name === "Tensor") {
      const file = type.symbol.declarations?.[0]?.getSourceFile().fileName ?? "";
      if (/lazy-tensor\/(src|dist)\/tensor\.(d\.)?ts$/.test(file)) return true;
    }
    return type.isClassOrInterface() || type.symbol
      ? this.basesOf(type).some((base) => this.isTensor(base))
      : false;
  }

  private basesOf(type: TypeScript.Type): readonly TypeScript.Type[] {
    return type.getBaseTypes?.() ?? [];
  }

  private report(node: TypeScript.Node, message: string): void {
    const { line, character } = this.source.getLineAndCharacterOfPosition(node.getStart(this.source));
    const finding = { file: this.source.fileName, line: line + 1, column: character + 1, message };
    const known = this.found.some((other) => other.line === finding.line && other.column === finding.column);
    if (!known) this.found.push(finding);
  }
}

/** `lazuli check`: prints what was found, one a line; gives how many. Throws CheckError. */
export function check(files: readonly string[], print: (line: string) => void = console.log): number {
  const findings = checkFiles(loadTypeScript(), files);
  for (const { file, line, column, message } of findings)
    print(`${relative(process.cwd(), file)}:${line}:${column} ${message}`);
  return findings.length;
}
